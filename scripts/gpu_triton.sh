#!/usr/bin/env bash
# On the GPU machine, with Triton and vLLM installed, perf_analyzer on PATH: through Triton beside the engine called directly
# and Triton's own vLLM backend, one engine after the other, all within LIMIT seconds. The table is printed last.
#   usage: gpu_triton.sh RESULTS_DIR [option of triton_benchmark.py...]     (as --sides engine generate, or --stall)
#   environment: LIMIT (560), TOKENIZER (.gpu/qwen), VLLM_BACKEND (.gpu/vllm_backend, a copy of the public repository or its src)
set -uo pipefail
results=$(mkdir -p "$1" && cd "$1" && pwd) || exit 1
shift
cd "$(dirname "$0")/.." || exit 1
. scripts/gpu_env.sh
limit=${LIMIT:-560}
backend=${VLLM_BACKEND:-.gpu/vllm_backend}
options=(--tokenizer "${TOKENIZER:-.gpu/qwen}" --deadline $((limit - 15)) --output "$results/triton.json")
[ -d "$backend" ] && options+=(--vllm-backend "$backend")
status=0
timeout --kill-after=10 "$limit" python3 scripts/triton_benchmark.py "${options[@]}" "$@" > "$results/triton.txt" 2>&1 || status=$?
cp .ananke/run/triton-benchmark-*.log "$results/" 2>/dev/null || true
tail -n 60 "$results/triton.txt"
exit $status
