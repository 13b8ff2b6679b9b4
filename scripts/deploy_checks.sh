# What scripts/deploy.sh, which reads this file in, looks at before it changes anything. Names in capitals are its constants.
# shellcheck shell=bash
# shellcheck disable=SC2154 # the variables are the script's choices

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
    all=$(nvidia-smi --query-gpu=index,memory.total,memory.free,driver_version,uuid,name --format=csv,noheader,nounits 2>&1) ||
        fail "nvidia-smi fails, so the driver does not work: $(last_line "$all")"
    ! is_up || all=$(after_replacement "$all")
    table=$(sort -t, -k3,3nr <<<"$all" | head -n "$ranks")
    (($(wc -l <<<"$table") == ranks)) ||
        fail "--gpus $gpus$( ((stages == 1)) || echo " for each of $stages stages"), but this machine has $(wc -l <<<"$all")"
    devices=$(cut -d, -f1 <<<"$table" | paste -sd,)
    local driver
    driver=$(cut -d, -f4 <<<"$table" | head -n 1 | tr -d ' ')
    report "GPU $devices" "$(cut -d, -f6- <<<"$table" | head -n 1 | sed 's/^ *//'), driver $driver"
    ((${driver%%.*} >= 580)) || warn "the image's CUDA 13 wants driver 580 or newer, or NVIDIA's forward compatibility (datacentre GPUs)"
    check_gpu_memory "$table" "$(wc -l <<<"$all")"
}

# The table of GPUs with the memory counted as free that the container holds which is to be replaced.
after_replacement() { # TABLE
    local own used
    own=$(docker top "$name" -eo pid 2>/dev/null | tail -n +2 | tr -s ' \n' ' ') || own=""
    used=$(nvidia-smi --query-compute-apps=pid,gpu_uuid,used_memory --format=csv,noheader,nounits 2>/dev/null) || used=""
    awk -F ', *' -v OFS=', ' -v own="$own" '
        BEGIN { split(own, pids, " "); for (i in pids) mine[pids[i]] = 1 }
        # Where the driver does not say how much a process holds, it is taken to hold everything that is taken.
        NR == FNR { if ($1 in mine) back[$2] += ($3 ~ /^[0-9]+$/ ? $3 : 1e9); next }
        back[$5] { $3 = $3 + back[$5] < $2 ? $3 + back[$5] : $2 }
        { print }' <(echo "$used") <(echo "$1")
}

check_gpu_memory() { # TABLE PRESENT
    local total free weights need usable asked=ANANKE_GPU_MEMORY_UTILIZATION share=""
    take share gpu_memory_utilization
    share=${share:-0.9}
    ! is_from_config gpu_memory_utilization || asked="gpu_memory_utilization of $config"
    total=$(cut -d, -f2 <<<"$1" | sort -n | head -n 1) free=$(cut -d, -f3 <<<"$1" | sort -n | head -n 1)
    [[ $share =~ ^(0?[.][0-9]+|1([.]0*)?)$ ]] || fail "$asked is a share of 1, not $share"
    [[ $total$free =~ ^[0-9\ ]+$ ]] || { warn "nvidia-smi does not say how much memory the GPU has, so whether $model fits is not known"; return; }
    usable=$(calculate "$total * $share / 1024")
    (($(calculate "$free >= $total * $share"))) ||
        fail "only $(calculate "$free / 1024") of $(calculate "$total / 1024") GiB of GPU memory are free, and the server takes $share of it: end what else uses the GPU (nvidia-smi), or set $asked"
    weights=$(weights_gib)
    if [[ $weights == 0 ]]; then
        warn "whether $model fits into $usable GiB of GPU memory cannot be told from its name"
        return
    fi
    need=$(calculate "$weights / $ranks + $OVERHEAD_GIB")
    (($(calculate "$need <= $usable"))) || fail "$model does not fit: its weights take $weights GiB, which with $OVERHEAD_GIB GiB for the rest is $need GiB a GPU, and the server may use $usable; $(what_would_fit "$weights" "$usable" "$2")"
    report "GPU memory" "$need GiB needed, $usable may be used"
}

what_would_fit() { # WEIGHTS USABLE PRESENT
    local n
    for n in 2 4 8; do
        if ((n > gpus && n * stages <= $3)) && (($(calculate "$1 / ($n * $stages) + $OVERHEAD_GIB <= $2"))); then
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
    [[ -n $there ]] || return 0
    [[ $there == *" yes" ]] || fail "there is a container $name that this script did not start: give another --name, or remove it"
    there=${there%% *}
}

# Whether it holds GPUs and ports, or will again in a moment.
is_up() { [[ -n $there && ! $there =~ ^(exited|created|dead)$ ]]; }

# What is mounted keeps its permissions, and the server is another user than the one who calls this.
check_readable() {
    local closed=""
    [[ ! -d $model ]] || closed=$(find -L "$model" ! -uid "${USER_OF_IMAGE%:*}" \( ! -perm -o=r -o -type d ! -perm -o=x \) -print -quit)
    [[ -z $config || -n $closed ]] || closed=$(find -L "$config" ! -uid "${USER_OF_IMAGE%:*}" ! -perm -o=r)
    [[ -z $closed ]] || fail "the container's user, ${USER_OF_IMAGE%:*}, cannot read $closed: let everybody read it (chmod -R o+rX)"
}

check_ports() {
    local port address own="" wanted=("$grpc_port" "$metrics_port")
    is_encrypted || wanted+=("$http_port")
    address=$(address_here | tr -d '[]')
    [[ $http_port != "$grpc_port" && $http_port != "$metrics_port" && $grpc_port != "$metrics_port" ]] ||
        fail "HTTP, gRPC and metrics each need a port of their own, not $http_port, $grpc_port and $metrics_port"
    # Those that the container will give back.
    ! is_up || own=$(docker port "$name" 2>/dev/null | sed 's/.*://' | tr '\n' ' ') || own=""
    for port in "${wanted[@]}"; do
        [[ " $own" != *" $port "* ]] || continue
        ! (: <>"/dev/tcp/$address/$port") 2>/dev/null || fail "port $port of $address is taken: end what listens there (make stop), or give another port"
    done
}

# What the configuration's file says of a key, as block or as flow; empty where it says nothing. No key's name is in two sections.
configured() { # KEY
    [[ -n $config ]] || return 0
    awk -v key="$1" '
        { sub(/(^|[ \t])#.*/, "") }
        {
            rest = $0
            while (match(rest, "(^|[ \t{,])" key "[ \t]*:([ \t]|$)")) {
                rest = value = substr(rest, RSTART + RLENGTH)
                sub(/^[ \t]+/, "", value)
                if (value ~ /^["\047]/) { quote = substr(value, 1, 1); value = substr(value, 2); sub(quote ".*", "", value) }
                else sub(/[ \t]*([,}].*)?$/, "", value)
                if (value != "" && value !~ /^{/) { print value; exit }
            }
        }' "$config"
}
