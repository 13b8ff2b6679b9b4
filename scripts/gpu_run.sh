#!/usr/bin/env bash
# On a GPU machine with vLLM and Triton installed: concurrent mixed requests through Triton, first with room for all,
# then with so little KV cache that requests are preempted and resumed.
#   usage: gpu_run.sh RESULTS_DIR
set -euo pipefail
results=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
. scripts/gpu_env.sh
prove=(python3 scripts/prove.py --concurrency 64 --plain-every 8)

"${prove[@]}" --requests 64 --output "$results/mixed.json" 2>&1 | tee "$results/mixed.txt"
cp .ananke/run/prove-mixed.log "$results/mixed-server.log"

ANANKE_MAX_MODEL_LEN=512 ANANKE_ENFORCE_EAGER=true \
    ANANKE_ENGINE_ARGS='{"num_gpu_blocks_override": 36, "block_size": 16, "enable_prefix_caching": false}' \
    "${prove[@]}" --requests 128 --output "$results/preempted.json" 2>&1 | tee "$results/preempted.txt"
cp .ananke/run/prove-preempted.log "$results/preempted-server.log"
