#!/usr/bin/env bash
# Constrained generation with curl: a whole answer, a stream, and an error.
#
#     examples/http/generate.sh [http://HOST:PORT]
#
# `constraint` and `sampling_parameters` are JSON *text*, quoted within the request; so are the answer's report, provenance and metrics.
set -euo pipefail
url="${1:-${ANANKE_HTTP_URL:-http://localhost:8000}}"
[[ "$url" == *://* ]] || url="http://$url"
answer="$(mktemp)"
trap 'rm -f "$answer"' EXIT

echo "── a JSON value that a schema admits"
curl --silent --show-error --fail-with-body --max-time 60 "$url/v2/models/generate/generate" --data-binary @- <<'REQUEST'
{
  "text_input": "The capital of France, as JSON: ",
  "constraint": "{\"type\": \"json_schema\", \"whitespace\": \"compact\", \"schema\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\", \"pattern\": \"^[A-Z][a-z]{2,11}$\"}}, \"required\": [\"city\"], \"additionalProperties\": false}}",
  "sampling_parameters": "{\"max_tokens\": 30, \"temperature\": 0.0}",
  "return_finish_reason": true
}
REQUEST
echo

echo "── a text in pieces: server-sent events, the last with report, provenance and metrics"
curl --silent --show-error --fail-with-body --no-buffer --max-time 60 "$url/v2/models/generate/generate_stream" --data-binary @- <<'REQUEST'
{
  "text_input": "The next release is ",
  "constraint": "{\"type\": \"regex\", \"pattern\": \"v[0-9]{1,2}[.][0-9]{1,2}\"}",
  "sampling_parameters": "{\"max_tokens\": 12, \"seed\": 7}",
  "stream": true
}
REQUEST

echo "── a constraint that cannot be enforced: status 400, and where and why"
status="$(curl --silent --show-error --max-time 60 --output "$answer" --write-out '%{http_code}' "$url/v2/models/generate/generate" \
  --data '{"text_input": "x", "constraint": "{\"type\": \"regex\", \"pattern\": \"(?=a)b\"}"}')"
echo "$status"
cat "$answer"
echo
[[ "$status" == 400 ]]
