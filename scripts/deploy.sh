#!/usr/bin/env bash
# Build the container image and run the server from it on this machine's GPUs; what is missing is told before anything is changed.
#   --mode dev|prod|custom  dev: preset development, not restarted.  prod: preset production, restarted.
#                           custom: the keys of --config, and a question for each choice
#   --model NAME|FOLDER     a hub's name, or a folder in Hugging Face's layout
#   --gpus N                GPUs that share each layer (1); times pipeline_parallel_size are taken, where that is set
#   --config FILE           mounted, in place of the image's own config.yaml; what it says is stronger than the environment, and an
#                           option is stronger than both
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
# Credentials come from NGC_API_KEY and HF_TOKEN, or are asked for without echo; the key that signs from ANANKE_SIGNING_KEY_FILE or
# ANANKE_SIGNING_KEY. Other ANANKE_... variables are handed on by name.
set -euo pipefail

PROJECT=$(cd "$(dirname "$0")/.." && pwd)
readonly PROJECT LABEL=ananke-triton.deployed
# GiB; allowances, for the base image with our packages and for what vLLM needs beside the weights.
readonly IMAGE_GIB=40 OVERHEAD_GIB=3
# Of Dockerfile.triton, and where the container finds its key.
readonly USER_OF_IMAGE=10001:10001 KEYS=/run/secrets/ananke
# Settings that name a file of this machine, which the container gets.
readonly FILES=(signing_key_file api_key_file tls_certificate_file tls_key_file tls_client_ca_file)
# name, billions of parameters, whether the hub asks for a token
readonly MODELS=(
    "Qwen/Qwen2.5-Coder-1.5B-Instruct 1.54 open"
    "Qwen/Qwen2.5-Coder-7B-Instruct 7.62 open"
    "Qwen/Qwen2.5-Coder-14B-Instruct 14.8 open"
    "Qwen/Qwen2.5-Coder-32B-Instruct 32.8 open"
    "meta-llama/Llama-3.1-8B-Instruct 8.03 gated"
)
mode="" model="" gpus="" stages="" config="" bind="" restart="" http_port="" grpc_port="" metrics_port="" base_image="" timeout="" drain=""
name=ananke image=ananke-triton build=yes yes=no dry_run=no is_replaced=no
from_config=()

# shellcheck source=scripts/deploy_checks.sh
. "$PROJECT/scripts/deploy_checks.sh"

main() {
    parse "$@"
    check_terminal
    check_docker
    choose
    check_container
    check_gpus
    check_disk
    check_readable
    find_files
    check_ports
    ask_credentials
    assemble
    show_plan
    confirm
    [[ $build == no ]] || build_image
    put_files
    set_aside
    start_container
    wait_until_it_generates
    remove_what_was_before
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
    check_numbers
}

check_numbers() {
    local number
    for number in gpus timeout http_port grpc_port metrics_port; do
        [[ -z ${!number} || ${!number} =~ ^[1-9][0-9]*$ ]] || fail "--${number//_/-} is a positive number, not ${!number}"
    done
}

usage() { sed -n '2,/^set /{/^#/{s/^# \{0,1\}//p}}' "$PROJECT/scripts/deploy.sh"; }

# ---- choices ----

# An option is stronger than the configuration's file, that than the environment, that than the default. The container's own order is
# another, so nothing is handed on to it that the file says.
choose() {
    mode_is_said=$([[ -n $mode || $yes == no ]] && echo yes || echo no)
    [[ -n $mode ]] || choose_one mode "Mode" prod "dev prod custom"
    config=${config:-${ANANKE_CONFIG:-}}
    [[ $mode != custom ]] || ask config "Configuration" "$PROJECT/config.yaml"
    [[ -z $config || -f $config ]] || fail "there is no configuration $config"
    take model model
    take gpus tensor_parallel_size
    take stages pipeline_parallel_size
    take timeout start_timeout
    take drain drain_timeout
    take http_port http_port
    take grpc_port grpc_port
    take metrics_port metrics_port
    local default="Qwen/Qwen2.5-Coder-7B-Instruct"
    [[ $mode != dev ]] || default="Qwen/Qwen2.5-Coder-1.5B-Instruct"
    [[ -n $model ]] || choose_one model "Model: a number, a hub's name or a folder" "$default" "${MODELS[*]%% *}"
    if [[ $mode == custom ]]; then
        ask gpus "GPUs that share the model" 1
        ask bind "Address to publish the ports on" 127.0.0.1
        ask http_port "HTTP port" 8000
        ask grpc_port "gRPC port" 8001
        ask metrics_port "Metrics port" 8002
        ask restart "Restart policy" unless-stopped
    fi
    [[ $bind != *:* || $bind == \[* ]] || bind="[$bind]" # as docker and addresses of the web write IPv6
    gpus=${gpus:-1} bind=${bind:-127.0.0.1} timeout=${timeout:-1800} timeout=${timeout%.*} drain=${drain:-20}
    [[ $drain =~ ^[0-9]+([.][0-9]*)?$ ]] || fail "drain_timeout is a number of seconds, not $drain"
    http_port=${http_port:-8000} grpc_port=${grpc_port:-8001} metrics_port=${metrics_port:-8002}
    check_numbers
    stages=${stages:-1}
    [[ $stages =~ ^[1-9][0-9]*$ ]] || fail "pipeline_parallel_size is a positive number, not $stages"
    ranks=$((gpus * stages))
    [[ -n $restart ]] || restart=$([[ $mode == dev ]] && echo no || echo unless-stopped)
    model=${model/#\~\//$HOME/}
    [[ -d $model || ! -d $PROJECT/$model ]] || model=$PROJECT/$model
    if [[ $model == [./]* || -d $model ]]; then
        [[ -f $model/config.json ]] || fail "$model is no model's folder: it has no config.json"
        model=$(cd "$model" && pwd)
    fi
}

take() { # VARIABLE KEY: gives a variable without a value that of the configuration's file, else that of the environment
    [[ -z ${!1} ]] || return 0
    local variable=ANANKE_${2^^} value
    value=$(configured "$2")
    [[ $value != null && $value != none && $value != "~" ]] || value=""
    [[ -z $value ]] || from_config+=("$2")
    printf -v "$1" %s "${value:-${!variable:-}}"
}

# Triton's HTTP, which has no TLS, then listens within the container alone.
is_encrypted() { [[ -n ${contents[tls_certificate_file]:-} ]]; }

is_from_config() { [[ " ${from_config[*]} " == *" $1 "* ]]; } # KEY

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

# Sets contents: what the files hold that settings name, by setting; none that the configuration holds itself.
find_files() {
    local key file
    declare -gA contents=()
    for key in "${FILES[@]}"; do
        file=""
        take file "$key"
        [[ -n $file ]] || continue
        [[ $file == /* || -e $file ]] || file=$PROJECT/$file
        [[ -f $file && -r $file ]] || fail "$file cannot be read (ANANKE_${key^^}, or $key of the configuration)"
        contents[$key]=$(<"$file")
    done
    if is_from_config signing_key_file; then return; fi
    if [[ -n $(configured signing_key) ]]; then unset "contents[signing_key_file]"; return; fi
    [[ -n ${ANANKE_SIGNING_KEY:-} ]] || return 0
    [[ -z ${contents[signing_key_file]:-} ]] || fail "ANANKE_SIGNING_KEY and ANANKE_SIGNING_KEY_FILE are both set: set one of them"
    contents[signing_key_file]=${ANANKE_SIGNING_KEY//\\n/$'\n'}
}

# ---- commands ----

assemble() {
    local key
    build_command=(docker build --file "$PROJECT/Dockerfile.triton" --tag "$image")
    [[ -z $base_image ]] || build_command+=(--build-arg "BASE_IMAGE=$base_image")
    build_command+=("$PROJECT")
    run_command=(docker run --detach --init --name "$name" --label "$LABEL=yes" --restart "$restart"
        --gpus "\"device=$devices\"" --shm-size 2g --ulimit memlock=-1 --security-opt no-new-privileges --cap-drop ALL
        --stop-timeout "$((10#${drain%.*} + 40))"
        --publish "$bind:$grpc_port:8001" --publish "$bind:$metrics_port:8002"
        --volume "$name-models:/var/cache/ananke/models" --volume "$name-compile:/var/cache/ananke/compile"
        --volume "$name-state:/var/lib/ananke"
        --env ANANKE_HTTP_PORT=8000 --env ANANKE_GRPC_PORT=8001 --env ANANKE_METRICS_PORT=8002)
    is_encrypted || run_command+=(--publish "$bind:$http_port:8000")
    is_from_config tensor_parallel_size || run_command+=(--env "ANANKE_TENSOR_PARALLEL_SIZE=$gpus")
    is_from_config start_timeout || run_command+=(--env "ANANKE_START_TIMEOUT=$timeout")
    if [[ $mode != custom ]] && [[ $mode_is_said == yes || -z $(configured preset) ]]; then
        run_command+=(--env "ANANKE_PRESET=$([[ $mode == dev ]] && echo development || echo production)")
    fi
    [[ -z $config ]] || run_command+=(--volume "$(realpath "$config"):/etc/ananke/config.yaml:ro" --env ANANKE_CONFIG=/etc/ananke/config.yaml)
    if [[ -d $model ]]; then
        run_command+=(--volume "$model:/model:ro" --env ANANKE_MODEL=/model)
    elif ! is_from_config model; then
        run_command+=(--env "ANANKE_MODEL=$model")
    fi
    # Each deployment's own, so that the container from before finds its own where it has to serve again.
    keys_volume=$name-keys-$(date -u +%Y%m%d-%H%M%S)
    ((${#contents[@]} == 0)) || run_command+=(--volume "$keys_volume:$KEYS:ro")
    for key in "${!contents[@]}"; do run_command+=(--env "ANANKE_${key^^}=$KEYS/$key"); done
    hand_on_environment
    run_command+=("$image")
}

hand_on_environment() {
    local variable key
    for variable in $(compgen -e); do
        case $variable in
            # Said otherwise above, or of this machine and not of the container.
            ANANKE_MODEL | ANANKE_CONFIG | ANANKE_TENSOR_PARALLEL_SIZE | ANANKE_START_TIMEOUT | ANANKE_SIGNING_KEY) ;;
            ANANKE_HOST | ANANKE_HOME | ANANKE_RUN_DIR | ANANKE_BOARD | ANANKE_*_PORT | ANANKE_*_URL | ANANKE_DEVICE | ANANKE_TORCH_INDEX) ;;
            # The client's, with files of this machine.
            ANANKE_API_KEY_PATH | ANANKE_CA_FILE | ANANKE_CLIENT_CERTIFICATE_FILE | ANANKE_CLIENT_KEY_FILE) ;;
            ANANKE_PRESET) [[ $mode != custom || -n $(configured preset) ]] || run_command+=(--env ANANKE_PRESET) ;;
            ANANKE_*)
                key=${variable#ANANKE_} key=${key##*__}
                if [[ " ${FILES[*]} " == *" ${key,,} "* ]]; then
                    continue
                elif [[ -n $(configured "${key,,}") ]]; then
                    warn "$variable is not handed on: $config says what ${key,,} is"
                elif [[ -n ${!variable} ]]; then
                    run_command+=(--env "$variable")
                fi
                ;;
            HF_TOKEN) [[ -z $HF_TOKEN ]] || run_command+=(--env HF_TOKEN) ;;
        esac
    done
}

show_plan() {
    echo
    printf '  %-14s %s\n' mode "$mode" model "$model" GPUs "$devices" image "$image$([[ $build == yes ]] || echo ', not built')" \
        ports "$bind: $(is_encrypted && echo "gRPC $grpc_port with TLS" || echo "HTTP $http_port, gRPC $grpc_port"), metrics $metrics_port" restart "$restart"
    [[ -z $config ]] || printf '  %-14s %s\n' configuration "$config"
    [[ -z $there ]] || printf '  %-14s %s\n' replaces "the container $name ($there)"
    [[ $bind == 127.0.0.1 || $bind == "[::1]" ]] || warn "others can reach $bind: $(what_is_open)"
    echo
}

what_is_open() {
    local keys=${contents[api_key_file]:-}
    if is_encrypted && [[ -n $keys || -n ${contents[tls_client_ca_file]:-} ]]; then
        echo "the metrics port neither encrypts nor asks for a key, so close it"
    elif is_encrypted; then
        echo "the server asks for no key, so set ANANKE_API_KEY_FILE or let a proxy ask, and close the metrics port"
    elif [[ -n $keys ]]; then
        echo "the server asks for keys but does not encrypt them, so let a proxy encrypt, and close the metrics port"
    else
        echo "the server neither encrypts nor asks for a key, so let a proxy do both, and close the metrics port"
    fi
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

# Into a volume, by a pipe: as files that the server's user alone may read, in no environment, no command line and no image.
put_files() {
    local key
    for key in "${!contents[@]}"; do
        do_it docker run --rm --interactive --network none --user 0:0 --cap-drop ALL --cap-add CHOWN --cap-add DAC_OVERRIDE \
            --entrypoint sh --volume "$keys_volume:$KEYS" "$image" \
            -c "umask 077 && cat >$KEYS/$key && chown -R $USER_OF_IMAGE $KEYS" <<<"${contents[$key]}" ||
            { remove_unused_keys; fail "$key could not be put into the volume $keys_volume; docker's words are above"; }
    done
}

# A running server is given its time to end requests under way. It is kept until the new one has generated.
set_aside() {
    [[ -n $there ]] || return 0
    ! is_up || do_it docker stop "$name"
    remove "$name-before"
    do_it docker rename "$name" "$name-before"
    is_replaced=yes
}

start_container() { do_it "${run_command[@]}" || { go_back; fail "the container could not be started; docker's words are above"; }; }

# Where the new server does not do, the one from before serves again.
go_back() {
    [[ $is_replaced == yes ]] || { remove_unused_keys; return 0; }
    docker stop "$name" >/dev/null 2>&1 || true
    remove "$name-failed"
    docker rename "$name" "$name-failed" >/dev/null 2>&1 || true # there may be none
    docker rename "$name-before" "$name" && { ! is_up || docker start "$name" >/dev/null; } &&
        warn "the container $name is the one from before again ($there); the new one is kept as $name-failed until the next deployment"
    remove_unused_keys
}

remove_what_was_before() {
    if [[ $is_replaced == yes ]]; then
        remove "$name-before"
        remove "$name-failed"
    fi
    remove_unused_keys
}

# Of this name's. Docker refuses to remove those that a container has, one that is stopped too, unless it is forced.
remove_unused_keys() {
    local volume
    [[ $dry_run == no ]] || return 0
    for volume in $(docker volume ls --quiet | grep -xE "$name-keys(-[0-9]{8}-[0-9]{6})?"); do
        docker volume rm "$volume" >/dev/null 2>&1 || true
    done
}

remove() { # CONTAINER, which may not be there
    if [[ $dry_run == yes ]]; then do_it docker rm --force "$1"; else docker rm --force "$1" >/dev/null 2>&1 || true; fi
}

do_it() {
    if [[ $dry_run == yes ]]; then printf '+'; printf ' %q' "$@"; echo; else "$@"; fi
}

# ---- afterwards ----

wait_until_it_generates() {
    if [[ $dry_run == yes ]]; then return; fi
    local begin=$SECONDS state said=0
    # Over HTTP, since gRPC may want TLS, and a certificate of its client.
    while ! docker exec "$name" ananke health --http --generate >/dev/null 2>&1; do
        state=$(docker inspect --format '{{.State.Status}} {{.RestartCount}}' "$name" 2>&1) || fail "the container $name is gone: $state"
        if [[ $state != "running 0" ]]; then
            docker stop "$name" >/dev/null 2>&1 || true # it would be restarted for ever
            fail_with_logs "the server ended before it could generate"
        fi
        ((SECONDS - begin < timeout)) || fail_with_logs "after $timeout s the server cannot generate$([[ $is_replaced == yes ]] || echo ' (it is left running)')"
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
    local at http server first=""
    at=$(address_here)
    http="HTTP http://$at:$http_port, " server=http://$at:$http_port
    ! is_encrypted || http="" server=$at:$grpc_port first=$'  export ANANKE_CA_FILE=AUTHORITY.pem\n'
    cat <<TEXT

The server runs: ${http}gRPC $at:$grpc_port, metrics http://$at:$metrics_port/metrics
Next:
${first}  ananke generate "A year: " --regex '(19|20)[0-9]{2}' --server $server
  ananke bench --server $server      what a client sees of its speed
  docker logs --follow $name                    its log
  docker stop $name                             ends it, requests under way first
More in docs/DEPLOYMENT.md.
TEXT
}

# The address by which this machine reaches what is published.
address_here() { case $bind in 0.0.0.0) echo 127.0.0.1 ;; "[::]") echo "[::1]" ;; *) echo "$bind" ;; esac; }

# ---- words ----

report() { printf '%-18s %s\n' "$1" "$2"; }

warn() { echo "deploy: note: $1" >&2; }

last_line() { tail -n 1 <<<"$1"; }

# A truth is 1 or 0, a number has at most one decimal.
calculate() { awk "BEGIN { v = ($1); if (v == int(v)) print v; else printf \"%.1f\\n\", v }"; }

fail() { echo "deploy: $1" >&2; exit 1; }

fail_with_logs() {
    { echo "deploy: $1; the end of docker logs $name:"; docker logs --tail 30 "$name" 2>&1; } >&2
    go_back
    exit 1
}

main "$@"
