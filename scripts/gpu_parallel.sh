#!/usr/bin/env bash
# On a machine of two GPUs: concurrent mixed requests through Triton and a model on both, their outputs judged: by tensor parallel,
# by pipeline stages, and by tensor parallel under Ray (on one GPU where GPUS is 1). Each way has LIMIT seconds.
#   usage: gpu_parallel.sh RESULTS_DIR [tensor] [pipeline] [ray]      (default: all three)
#   environment: LIMIT (180), GPUS (2, of ray alone), TOKENIZER (.gpu/qwen), REQUESTS (64), SHAPE (--tiny; empty for a 7B shape; random weights)
set -uo pipefail
results=$(mkdir -p "$1" && cd "$1" && pwd) || exit 1
shift
ways=("$@")
[ $# -gt 0 ] || ways=(tensor pipeline ray)
cd "$(dirname "$0")/.." || exit 1
. scripts/gpu_env.sh
read -ra shape <<< "${SHAPE---tiny}"
ANANKE_MODEL=$(python3 scripts/model_shape.py "${TOKENIZER:-.gpu/qwen}" "${shape[@]}") || exit 1
export ANANKE_MODEL ANANKE_LOAD_FORMAT=dummy ANANKE_MAX_MODEL_LEN=1024
# FlashInfer's all-reduce is compiled for more than a minute at its first use, and asks for NVLink multicast.
export VLLM_ALLREDUCE_USE_FLASHINFER=0
without='"compilation_config": {"pass_config": {"fuse_allreduce_rms": false}}'
# Of a tiny model the rest of a GPU would be 16 million blocks, which take vLLM half a minute to make.
blocks='"num_gpu_blocks_override": 8192'
status=0

for way in "${ways[@]}"; do
    case $way in
        tensor) setting=(ANANKE_TENSOR_PARALLEL_SIZE=2 "ANANKE_ENGINE_ARGS={$without, $blocks}") ;;
        pipeline) setting=(ANANKE_PIPELINE_PARALLEL_SIZE=2 "ANANKE_ENGINE_ARGS={$blocks}") ;;
        ray) setting=(ANANKE_TENSOR_PARALLEL_SIZE="${GPUS:-2}" "ANANKE_ENGINE_ARGS={$without, $blocks, \"distributed_executor_backend\": \"ray\"}") ;;
        *) echo "$way: unknown"; exit 2 ;;
    esac
    echo "== $way"
    env "${setting[@]}" timeout --kill-after=10 "${LIMIT:-180}" python3 scripts/prove.py --requests "${REQUESTS:-64}" --concurrency 32 \
        --plain-every 8 --output "$results/$way.json" > "$results/$way.txt" 2>&1 || { status=$?; echo "$way: exit code $status"; }
    tail -n 14 "$results/$way.txt"
    cp ".ananke/run/prove-$way.log" "$results/$way-server.log" 2> /dev/null || true
done
exit $status
