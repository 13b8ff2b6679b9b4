#!/usr/bin/env bash
# On the GPU machine: the validate model under perf_analyzer, then the engine's benchmark beside vLLM's guidance, then beside
# vLLM's xgrammar in an engine of its own; sleep and waking. All of it ends within LIMIT seconds; what finds too little time left
# is skipped.
#   usage: gpu_bench.sh RESULTS_DIR [validate] [engine] [xgrammar] [sleep]      (default: the first three; one alone has all the time)
#   environment: LIMIT (560), TOKENIZER (.gpu/qwen), CASES (.gpu/maskbench, or else shared/data/maskbench),
#   ENGINE_OPTIONS (further options of engine_benchmark.py)
set -uo pipefail
results=$(mkdir -p "$1" && cd "$1" && pwd) || exit 1
shift
stages=("$@")
[ $# -gt 0 ] || stages=(validate engine xgrammar)
cd "$(dirname "$0")/.." || exit 1
. scripts/gpu_env.sh
export VLLM_USE_FLASHINFER_SAMPLER=0
limit=${LIMIT:-560}
deadline=$((SECONDS + limit))
engine_limit=300 xgrammar_limit=200
if [ ${#stages[@]} = 1 ]; then engine_limit=$limit xgrammar_limit=$limit; fi
read -ra further <<< "${ENGINE_OPTIONS:-}"
tokenizer=${TOKENIZER:-.gpu/qwen}
for cases in "${CASES:-.gpu/maskbench}" shared/data/maskbench; do [ -d "$cases" ] && break; done
options=(--tokenizer "$tokenizer" "${further[@]}")
[ -d "$cases" ] && options+=(--cases "$cases")
status=0

# bounded NAME MOST LEAST COMMAND...: run it for at most MOST seconds, and not at all where fewer than LEAST are left.
bounded() {
    local name=$1 most=$2 least=$3 left=$((deadline - SECONDS - 5))
    shift 3
    if [ "$left" -lt "$least" ]; then echo "$name: skipped, $left s are left" | tee "$results/$name.txt"; return; fi
    if [ "$left" -lt "$most" ]; then most=$left; fi
    case $name in engine | xgrammar) set -- "$@" --deadline $((most - 15)) ;; esac
    echo "$name: at most $most s"
    timeout --kill-after=5 "$most" "$@" > "$results/$name.txt" 2>&1 || { status=$?; echo "$name: exit code $status"; }
}

case " ${stages[*]} " in *" validate "*) bounded validate 150 60 scripts/gpu_validate.sh "$results" ;; esac
case " ${stages[*]} " in *" engine "*)
    bounded engine "$engine_limit" 120 python3 scripts/engine_benchmark.py "${options[@]}" --output "$results/engine.json" ;;
esac
case " ${stages[*]} " in *" xgrammar "*)
    bounded xgrammar "$xgrammar_limit" 120 python3 scripts/engine_benchmark.py "${options[@]}" --backend xgrammar \
        --output "$results/engine-xgrammar.json" ;;
esac
case " ${stages[*]} " in *" sleep "*)
    bounded sleep "$limit" 200 python3 scripts/sleep_times.py --tokenizer "$tokenizer" --rounds 2 --output "$results/sleep.json" ;;
esac

for name in validate engine xgrammar sleep; do
    if [ -f "$results/$name.txt" ]; then echo; echo "== $name"; tail -n 40 "$results/$name.txt"; fi
done
exit $status
