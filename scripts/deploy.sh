#!/usr/bin/env bash
# Build the container image and run the server from it on this machine's GPUs; what is missing is told before anything is changed.
#   --mode dev|prod|custom  dev: preset development, not restarted.  prod: preset production, restarted.
#                           custom: the keys of --config, and a question for each choice
#   --model NAME|FOLDER     a hub's name, or a folder in Hugging Face's layout
#   --gpus N                GPUs that share the model (1)
#   --config FILE           mounted, in place of the image's own config.yaml
#   --bind ADDRESS          where the ports are published (127.0.0.1)
#   --http-port, --grpc-port, --metrics-port N    (8000, 8001, 8002)
#   --restart POLICY        docker's: no, on-failure, unless-stopped, always
#   --name NAME             of the container (ananke)
#   --image NAME            (ananke-triton)
#   --base-image NAME       the image to build on, in place of Dockerfile.triton's own
#   --no-build              run the image that is there
#   --timeout SECONDS       until it must be able to generate, downloads of the model included (1800)
#   -y, --yes               ask nothing
#   -n, --dry-run           check everything, and print the commands instead of running them
# Credentials come from NGC_API_KEY and HF_TOKEN, or are asked for without echo. Other ANANKE_... variables are handed on by name.
set -euo pipefail

PROJECT=$(cd "$(dirname "$0")/.." && pwd)
readonly PROJECT LABEL=ananke-triton.deployed
# GiB; allowances, for the base image with our packages and for what vLLM needs beside the weights.
readonly IMAGE_GIB=40 OVERHEAD_GIB=3
# name, billions of parameters, whether the hub asks for a token
readonly MODELS=(
    "Qwen/Qwen2.5-Coder-1.5B-Instruct 1.54 open"
    "Qwen/Qwen2.5-Coder-7B-Instruct 7.62 open"
    "Qwen/Qwen2.5-Coder-14B-Instruct 14.8 open"
    "Qwen/Qwen2.5-Coder-32B-Instruct 32.8 open"
    "meta-llama/Llama-3.1-8B-Instruct 8.03 gated"
)
mode="" model="" gpus="" config="" bind="" restart="" http_port="" grpc_port="" metrics_port="" base_image=""
name=ananke image=ananke-triton timeout=1800 build=yes yes=no dry_run=no

main() {
    parse "$@"
    check_terminal
    check_docker
    choose
    check_gpus
    check_disk
    check_container
    ask_credentials
    assemble
    show_plan
    confirm
    [[ $build == no ]] || build_image
    replace_container
    start_container
    wait_until_it_generates
    say_what_next
}

parse() {
    local option
    while (($#)); do
        option=$1
        case $option in
            -y | --yes) yes=yes; shift; continue ;;
            -n | --dry-run) dry_run=yes; shift; continue ;;
            --no-build) build=no; shift; continue ;;
            -h | --help) usage; exit 0 ;;
            --mode | --model | --gpus | --config | --bind | --restart | --name | --image | --base-image | --timeout | --*-port) ;;
            *) fail "there is no option $option; see $0 --help" ;;
        esac
        [[ -n ${2:-} && $2 != --* ]] || fail "$option needs a value"
        option=${option#--}
        case ${option//-/_} in
            mode | model | gpus | config | bind | restart | name | image | base_image | timeout | http_port | grpc_port | metrics_port)
                printf -v "${option//-/_}" %s "$2" ;;
            *) fail "there is no option --$option; see $0 --help" ;;
        esac
        shift 2
    done
    [[ -z $mode || $mode =~ ^(dev|prod|custom)$ ]] || fail "--mode is dev, prod or custom, not $mode"
    [[ -z $restart || $restart =~ ^(no|on-failure|unless-stopped|always)$ ]] ||
        fail "--restart is no, on-failure, unless-stopped or always, not $restart"
    local number
    for number in gpus timeout http_port grpc_port metrics_port; do
        [[ -z ${!number} || ${!number} =~ ^[1-9][0-9]*$ ]] || fail "--${number//_/-} is a positive number, not ${!number}"
    done
}

usage() { sed -n '2,/^set /{/^#/{s/^# \{0,1\}//p}}' "$PROJECT/scripts/deploy.sh"; }

# ---- choices ----

choose() {
    [[ -n $mode ]] || choose_one mode "Mode" prod "dev prod custom"
    local default="Qwen/Qwen2.5-Coder-7B-Instruct"
    [[ $mode != dev ]] || default="Qwen/Qwen2.5-Coder-1.5B-Instruct"
    model=${model:-${ANANKE_MODEL:-}}
    [[ -n $model ]] || choose_one model "Model: a number, a hub's name or a folder" "$default" "${MODELS[*]%% *}"
    if [[ $mode == custom ]]; then
        ask gpus "GPUs that share the model" 1
        ask config "Configuration" "$PROJECT/config.yaml"
        ask bind "Address to publish the ports on" 127.0.0.1
        ask http_port "HTTP port" 8000
        ask grpc_port "gRPC port" 8001
        ask metrics_port "Metrics port" 8002
        ask restart "Restart policy" unless-stopped
    fi
    config=${config:-${ANANKE_CONFIG:-}} gpus=${gpus:-1} bind=${bind:-127.0.0.1}
    http_port=${http_port:-8000} grpc_port=${grpc_port:-8001} metrics_port=${metrics_port:-8002}
    [[ -n $restart ]] || restart=$([[ $mode == dev ]] && echo no || echo unless-stopped)
    [[ -z $config || -f $config ]] || fail "there is no configuration $config"
    model=${model/#\~\//$HOME/}
    if [[ $model == [./]* || -d $model ]]; then
        [[ -f $model/config.json ]] || fail "$model is no model's folder: it has no config.json"
        model=$(cd "$model" && pwd)
    fi
}

choose_one() { # VARIABLE QUESTION DEFAULT CHOICES
    local choices i answer
    read -r -d '' -a choices <<<"$4" || true
    if [[ $yes == no ]]; then
        for i in "${!choices[@]}"; do printf '  %d) %s\n' $((i + 1)) "${choices[i]}"; done
        while true; do
            ask answer "$2" "$3"
            if [[ $answer =~ ^[0-9]+$ ]]; then
                ((answer >= 1 && answer <= ${#choices[@]})) && answer=${choices[answer - 1]} && break
            elif [[ $1 == model || " ${choices[*]} " == *" $answer "* ]]; then
                break
            fi
            echo "  one of 1 to ${#choices[@]}, please"
            answer=""
        done
    fi
    printf -v "$1" %s "${answer:-$3}"
}

ask() { # VARIABLE QUESTION DEFAULT: leaves a variable that has a value
    [[ -z ${!1:-} ]] || return 0
    local reply=""
    if [[ $yes == no ]]; then read -rp "$2 [$3]: " reply || fail "the answer is missing"; fi
    printf -v "$1" %s "${reply:-$3}"
}

# ---- checks ----

check_terminal() { [[ $yes == yes || -t 0 ]] || fail "standard input is no terminal, so nothing can be asked: give --yes"; }

check_docker() {
    command -v docker >/dev/null || fail "docker is missing: install Docker Engine (https://docs.docker.com/engine/install)"
    local info
    info=$(docker info --format '{{.ServerVersion}}|{{.DockerRootDir}}|{{range $n, $r := .Runtimes}}{{$n}} {{end}}' 2>&1) ||
        fail "docker does not answer: start it (systemctl start docker), or add yourself to the group docker; it says: $(last_line "$info")"
    IFS='|' read -r docker_version docker_root docker_runtimes <<<"$(last_line "$info")"
    [[ " $docker_runtimes " == *" nvidia "* ]] || command -v nvidia-container-runtime-hook >/dev/null ||
        fail "docker has no NVIDIA runtime: install nvidia-container-toolkit, then nvidia-ctk runtime configure --runtime=docker and restart docker"
    report "docker" "$docker_version, with NVIDIA's runtime"
}

# Sets devices: the GPUs with the most free memory.
check_gpus() {
    command -v nvidia-smi >/dev/null || fail "nvidia-smi is missing: the image serves on NVIDIA GPUs; install their driver (without a GPU: make serve)"
    local all table
    all=$(nvidia-smi --query-gpu=index,memory.total,memory.free,driver_version,name --format=csv,noheader,nounits 2>&1) ||
        fail "nvidia-smi fails, so the driver does not work: $(last_line "$all")"
    table=$(sort -t, -k3,3nr <<<"$all" | head -n "$gpus")
    (($(wc -l <<<"$table") == gpus)) || fail "--gpus $gpus, but this machine has $(wc -l <<<"$all")"
    devices=$(cut -d, -f1 <<<"$table" | paste -sd,)
    local driver
    driver=$(cut -d, -f4 <<<"$table" | head -n 1 | tr -d ' ')
    report "GPU $devices" "$(cut -d, -f5 <<<"$table" | head -n 1 | sed 's/^ *//'), driver $driver"
    ((${driver%%.*} >= 580)) || warn "the image's CUDA 13 wants driver 580 or newer, or NVIDIA's forward compatibility (datacentre GPUs)"
    check_gpu_memory "$table" "$(wc -l <<<"$all")"
}

check_gpu_memory() { # TABLE PRESENT
    local total free share=${ANANKE_GPU_MEMORY_UTILIZATION:-0.9} weights need usable
    total=$(cut -d, -f2 <<<"$1" | sort -n | head -n 1) free=$(cut -d, -f3 <<<"$1" | sort -n | head -n 1)
    [[ $share =~ ^(0?[.][0-9]+|1([.]0*)?)$ ]] || fail "ANANKE_GPU_MEMORY_UTILIZATION is a share of 1, not $share"
    [[ $total$free =~ ^[0-9\ ]+$ ]] || { warn "nvidia-smi does not say how much memory the GPU has, so whether $model fits is not known"; return; }
    usable=$(calculate "$total * $share / 1024")
    (($(calculate "$free >= $total * $share"))) ||
        fail "only $(calculate "$free / 1024") of $(calculate "$total / 1024") GiB of GPU memory are free, and the server takes $share of it: end what else uses the GPU (nvidia-smi), or set ANANKE_GPU_MEMORY_UTILIZATION"
    weights=$(weights_gib)
    if [[ $weights == 0 ]]; then
        warn "whether $model fits into $usable GiB of GPU memory cannot be told from its name"
        return
    fi
    need=$(calculate "$weights / $gpus + $OVERHEAD_GIB")
    (($(calculate "$need <= $usable"))) || fail "$model does not fit: its weights take $weights GiB, which with $OVERHEAD_GIB GiB for the rest is $need GiB a GPU, and the server may use $usable; $(what_would_fit "$weights" "$usable" "$2")"
    report "GPU memory" "$need GiB needed, $usable may be used"
}

what_would_fit() { # WEIGHTS USABLE PRESENT
    local n
    for n in 2 4 8; do
        if ((n > gpus && n <= $3)) && (($(calculate "$1 / $n + $OVERHEAD_GIB <= $2"))); then
            echo "give --gpus $n"
            return
        fi
    done
    echo "choose a smaller or a quantised model"
}

# GiB of the model's weights: of a folder by its files, of a name by the size that it says; 0 where that cannot be told.
weights_gib() {
    if [[ -d $model ]]; then
        calculate "$(find -L "$model" -maxdepth 1 \( -name '*.safetensors' -o -name '*.bin' \) -printf '%s\n' | awk '{ s += $1 } END { print s + 0 }') / 1024 ^ 3"
        return
    fi
    local billions bytes=2 known
    billions=$(grep -oiE '(^|[-_/])[0-9]+([.][0-9]+)?b([-_.]|$)' <<<"${model##*/}" | head -n 1 | tr -dc '0-9.') || true
    for known in "${MODELS[@]}"; do [[ ${known%% *} != "$model" ]] || billions=$(cut -d' ' -f2 <<<"$known"); done
    case ${model,,} in *awq* | *gptq* | *int4* | *-4bit*) bytes=0.6 ;; *fp8* | *int8* | *-8bit*) bytes=1.1 ;; esac
    calculate "${billions:-0} * $bytes * 1e9 / 1024 ^ 3"
}

check_disk() {
    local free need=0
    [[ $build == no ]] || need=$IMAGE_GIB
    [[ -d $model ]] || need=$(calculate "$need + $(weights_gib) * 1.1")
    if ! free=$(df -Pk "$docker_root" 2>/dev/null | awk 'NR == 2 { print $4 }') || [[ -z $free ]]; then
        warn "the free disk of $docker_root cannot be told: docker runs elsewhere"
        return
    fi
    free=$(calculate "$free / 1024 ^ 2")
    (($(calculate "$free >= $need"))) ||
        fail "$docker_root has $free GiB free, and image and model take about $need: make room (docker system df says what docker holds)"
    report "disk" "$need GiB needed, $free free in $docker_root"
}

# Sets there: what a container of this name is doing, or empty.
check_container() {
    there=$(docker inspect --format "{{.State.Status}} {{index .Config.Labels \"$LABEL\"}}" "$name" 2>/dev/null) || there=""
    if [[ -n $there ]]; then
        [[ $there == *" yes" ]] || fail "there is a container $name that this script did not start: give another --name, or remove it"
        there=${there%% *}
        [[ $there != running ]] || return 0 # its ports are the ones that it will give back
    fi
    local port address=${bind/#0.0.0.0/127.0.0.1}
    for port in "$http_port" "$grpc_port" "$metrics_port"; do
        ! (: <>"/dev/tcp/$address/$port") 2>/dev/null || fail "port $port of $address is taken: end what listens there (make stop), or give another port"
    done
}

# ---- credentials ----

# They stay in the environment, from which docker takes them by name; the NGC key goes to docker's login by a pipe.
ask_credentials() {
    [[ $build == no || -n ${NGC_API_KEY:-} ]] || ask_secret NGC_API_KEY "NGC API key (Enter: pull the base image without)"
    [[ ! -d $model ]] || return 0
    [[ -n ${HF_TOKEN:-} ]] || ask_secret HF_TOKEN "Hugging Face token (Enter: none)"
    [[ -n ${HF_TOKEN:-} ]] || ! grep -q "^$model .* gated$" <<<"$(printf '%s\n' "${MODELS[@]}")" ||
        fail "$model is gated: accept its licence on the hub, and set HF_TOKEN"
}

ask_secret() { # VARIABLE QUESTION
    [[ $yes == no ]] || return 0
    local reply
    read -rsp "$2: " reply || fail "the answer is missing"
    echo
    [[ -z $reply ]] || export "$1=$reply"
}

# ---- commands ----

assemble() {
    build_command=(docker build --file "$PROJECT/Dockerfile.triton" --tag "$image")
    [[ -z $base_image ]] || build_command+=(--build-arg "BASE_IMAGE=$base_image")
    build_command+=("$PROJECT")
    run_command=(docker run --detach --init --name "$name" --label "$LABEL=yes" --restart "$restart"
        --gpus "\"device=$devices\"" --shm-size 2g --ulimit memlock=-1 --security-opt no-new-privileges --cap-drop ALL
        --stop-timeout 60
        --publish "$bind:$http_port:8000" --publish "$bind:$grpc_port:8001" --publish "$bind:$metrics_port:8002"
        --volume "$name-models:/var/cache/ananke/models" --volume "$name-compile:/var/cache/ananke/compile"
        --volume "$name-state:/var/lib/ananke"
        --env "ANANKE_TENSOR_PARALLEL_SIZE=$gpus" --env "ANANKE_START_TIMEOUT=$timeout"
        --env ANANKE_HTTP_PORT=8000 --env ANANKE_GRPC_PORT=8001 --env ANANKE_METRICS_PORT=8002)
    case $mode in
        dev) run_command+=(--env ANANKE_PRESET=development) ;;
        prod) run_command+=(--env ANANKE_PRESET=production) ;;
    esac
    [[ -z $config ]] || run_command+=(--volume "$(realpath "$config"):/etc/ananke/config.yaml:ro" --env ANANKE_CONFIG=/etc/ananke/config.yaml)
    if [[ -d $model ]]; then
        run_command+=(--volume "$model:/model:ro" --env ANANKE_MODEL=/model)
    else
        run_command+=(--env "ANANKE_MODEL=$model")
    fi
    hand_on_environment
    run_command+=("$image")
}

hand_on_environment() {
    if [[ -n ${ANANKE_SIGNING_KEY_FILE:-} ]]; then
        [[ -r $ANANKE_SIGNING_KEY_FILE ]] || fail "ANANKE_SIGNING_KEY_FILE=$ANANKE_SIGNING_KEY_FILE cannot be read"
        ANANKE_SIGNING_KEY=$(<"$ANANKE_SIGNING_KEY_FILE")
        export ANANKE_SIGNING_KEY
    fi
    local variable
    for variable in $(compgen -e); do
        case $variable in
            # Said otherwise above, or of this machine and not of the container.
            ANANKE_PRESET) [[ $mode != custom ]] || run_command+=(--env ANANKE_PRESET) ;;
            ANANKE_MODEL | ANANKE_CONFIG | ANANKE_TENSOR_PARALLEL_SIZE | ANANKE_START_TIMEOUT | ANANKE_SIGNING_KEY_FILE) ;;
            ANANKE_HOST | ANANKE_*_PORT | ANANKE_*_URL | ANANKE_DEVICE | ANANKE_TORCH_INDEX) ;;
            ANANKE_API_KEY_FILE | ANANKE_TLS_*_FILE)
                [[ -n ${!variable} ]] || continue
                [[ -r ${!variable} ]] || fail "$variable=${!variable} cannot be read"
                run_command+=(--volume "$(realpath "${!variable}"):/run/secrets/$variable:ro" --env "$variable=/run/secrets/$variable") ;;
            ANANKE_* | HF_TOKEN) [[ -z ${!variable} ]] || run_command+=(--env "$variable") ;;
        esac
    done
}

show_plan() {
    echo
    printf '  %-14s %s\n' mode "$mode" model "$model" GPUs "$devices" image "$image$([[ $build == yes ]] || echo ', not built')" \
        ports "$bind: HTTP $http_port, gRPC $grpc_port, metrics $metrics_port" restart "$restart"
    [[ -z $config ]] || printf '  %-14s %s\n' configuration "$config"
    [[ -z $there ]] || printf '  %-14s %s\n' replaces "the container $name ($there)"
    [[ $bind == 127.0.0.1 ]] || warn "others can reach $bind: the server neither encrypts nor asks for a key, so let a proxy do both, and close the metrics port"
    echo
}

confirm() {
    local reply
    [[ $yes == no && $dry_run == no ]] || return 0
    read -rp "Go on? [y/N] " reply || reply=""
    [[ $reply == [yY]* ]] || fail "nothing was changed"
}

build_image() {
    if [[ -n ${NGC_API_KEY:-} ]]; then
        # shellcheck disable=SC2016 # the name is meant literally
        do_it docker login nvcr.io --username '$oauthtoken' --password-stdin <<<"$NGC_API_KEY" || fail "nvcr.io refuses NGC_API_KEY"
    fi
    do_it "${build_command[@]}" || fail "the image could not be built; docker's words are above"
}

# A running server is given its time to end requests under way.
replace_container() {
    [[ -n $there ]] || return 0
    [[ $there != running ]] || do_it docker stop --time 60 "$name"
    do_it docker rm --force "$name"
}

start_container() { do_it "${run_command[@]}" || fail "the container could not be started; docker's words are above"; }

do_it() {
    if [[ $dry_run == yes ]]; then printf '+'; printf ' %q' "$@"; echo; else "$@"; fi
}

# ---- afterwards ----

wait_until_it_generates() {
    if [[ $dry_run == yes ]]; then return; fi
    local begin=$SECONDS state said=0
    while ! docker exec "$name" ananke health --generate >/dev/null 2>&1; do
        state=$(docker inspect --format '{{.State.Status}} {{.RestartCount}}' "$name" 2>&1) || fail "the container $name is gone: $state"
        if [[ $state != "running 0" ]]; then
            docker stop --time 60 "$name" >/dev/null 2>&1 || true # it would be restarted for ever
            fail_with_logs "the server ended before it could generate"
        fi
        ((SECONDS - begin < timeout)) || fail_with_logs "after $timeout s the server cannot generate (it is left running)"
        if ((SECONDS - begin >= said + 20)); then
            said=$((SECONDS - begin))
            echo "starting: $said s (docker logs $name)"
        fi
        sleep "${DEPLOY_POLL_SECONDS:-2}"
    done
    report "generates" "after $((SECONDS - begin)) s"
}

say_what_next() {
    if [[ $dry_run == yes ]]; then echo "nothing was changed"; return; fi
    cat <<TEXT

The server runs: HTTP http://$bind:$http_port, gRPC $bind:$grpc_port, metrics http://$bind:$metrics_port/metrics
Next:
  ananke generate "A year: " --regex '(19|20)[0-9]{2}' --server http://$bind:$http_port
  ananke bench --server http://$bind:$http_port      what a client sees of its speed
  docker logs --follow $name                    its log
  docker stop --time 60 $name                   ends it, requests under way first
More in docs/DEPLOYMENT.md.
TEXT
}

# ---- words ----

report() { printf '%-18s %s\n' "$1" "$2"; }

warn() { echo "deploy: note: $1" >&2; }

last_line() { tail -n 1 <<<"$1"; }

# A truth is 1 or 0, a number has at most one decimal.
calculate() { awk "BEGIN { v = ($1); if (v == int(v)) print v; else printf \"%.1f\\n\", v }"; }

fail() { echo "deploy: $1" >&2; exit 1; }

fail_with_logs() {
    { echo "deploy: $1; the end of docker logs $name:"; docker logs --tail 30 "$name" 2>&1; } >&2
    exit 1
}

main "$@"
