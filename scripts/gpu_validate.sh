#!/usr/bin/env bash
# On the GPU machine, with Triton installed and perf_analyzer on PATH: the validate model alone under perf_analyzer at
# concurrency 1, 8 and 32, without and with Triton's response cache. No engine is started. The table is printed last.
#   usage: gpu_validate.sh RESULTS_DIR
set -euo pipefail
results=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
. scripts/gpu_env.sh
status=0
timeout --kill-after=10 145 python3 scripts/validate_perf.py --output "$results/validate-perf.json" \
    > "$results/validate-perf.txt" 2>&1 || status=$?
cp .ananke/run/validate-perf-*.log "$results/" 2>/dev/null || true
tail -n 40 "$results/validate-perf.txt"
exit $status
