#!/usr/bin/env bash
# Prove Dockerfile.triton without a registry: build it on a base like NGC's, run it, generate in it; what happened ends in deploy/image-test.log.
# The base is Debian 12 with the Triton of set-up's wheel where NGC's images have theirs: /opt/tritonserver. No GPU has a part in this.
# Needs root, 12 GiB of free disk, and Debian's buildah, debootstrap and bubblewrap.
#   STORAGE_DRIVER       overlay, or vfs where the kernel refuses overlay mounts
#   KEEP=1               leave what was built in .ananke/image, until the next run
#   ANANKE_TORCH_INDEX   as in setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."

readonly WORK=.ananke/image
readonly WHEELS=$WORK/wheels
readonly LOG=deploy/image-test.log
readonly BASE=localhost/tritonserver:2.51.0-debian12
readonly IMAGE=localhost/ananke-triton:test
readonly TORCH_INDEX=${ANANKE_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
readonly DISK_MIB=12288
wheel_server="" container="" logger=""

main() {
    check_machine
    mkdir -p "$WORK" "${LOG%/*}"
    clean_up
    trap leave EXIT
    exec 3> >(sed -u "s|$PWD/||g" | tee "$WORK/log")
    logger=$!
    {
        echo "make image-test, $(date --utc --iso-8601=seconds), $(git describe --always --dirty --exclude '*')"
        echo "$(nproc) cores; buildah $(buildah --version | cut -d ' ' -f 3), storage $(stores driver), isolation chroot; $(bwrap --version)"
        timed "wheels of requirements/image-cpu.txt" download_wheels
        timed "base image $BASE" make_base
        timed "image $IMAGE" build_image
        check_container
    } >&3 2>&1
    exec 3>&-
    wait "$logger"
    cp "$WORK/log" "$LOG"
}

check_machine() {
    ((EUID == 0)) || fail "needs root, to mount and to change users"
    local tool free
    for tool in buildah debootstrap bwrap nsenter; do
        command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install buildah debootstrap bubblewrap"
    done
    free=$(df -Pm . | awk 'NR == 2 { print $4 }')
    ((free >= DISK_MIB)) || fail "needs $((DISK_MIB / 1024)) GiB of free disk; $PWD has $((free / 1024))"
}

# Images, containers and their state in a place of their own: what else buildah or podman have on this machine is not touched.
stores() { # COMMAND ARGUMENT...
    local driver=${STORAGE_DRIVER:-overlay}
    if [[ $1 == driver ]]; then echo "$driver"; return; fi
    buildah --root "$PWD/$WORK/storage" --runroot "$PWD/$WORK/runroot" --storage-driver "$driver" "$@"
}

# Ahead of the build and for the base's Python, so that the build reaches nothing but this machine.
download_wheels() {
    local torch
    torch=$(grep '^torch==' requirements/image-cpu.txt)
    download "$torch" || download --extra-index-url "$TORCH_INDEX" "$torch"
    download --find-links "$WHEELS" -r requirements/image-cpu.txt -r requirements/build.txt
}

download() {
    .venv/bin/python -m pip --disable-pip-version-check download --no-deps --only-binary :all: --python-version 3.11 \
        --dest "$WHEELS" "$@" >>"$WORK/pip.log" 2>&1
}

# ---- the base: what NGC's image has, as far as Dockerfile.triton relies on it ----

make_base() {
    local root=$WORK/base
    rm -rf "$root"
    debootstrap --variant=minbase --include=python3,python3-pip,libpython3.11,libnuma1 bookworm "$root" >"$WORK/debootstrap.log" ||
        fail_with_log "$WORK/debootstrap.log"
    chroot "$root" apt-get clean
    rm -rf "$root"/var/lib/apt/lists/*
    install_triton "$root"
    chroot "$root" useradd --uid 1000 triton-server
    install -D /dev/stdin "$root/opt/nvidia/nvidia_entrypoint.sh" <<<$'#!/bin/bash\necho "== base =="\nexec "$@"'
    container=$(stores from scratch)
    stores add --quiet "$container" "$root" / >/dev/null
    stores config --env PATH=/opt/tritonserver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        --entrypoint '["/opt/nvidia/nvidia_entrypoint.sh"]' --workingdir /opt/tritonserver "$container"
    stores commit --quiet --format docker --rm "$container" "$BASE" >/dev/null
    container=""
    rm -rf "$root"
}

install_triton() { # ROOT
    local triton=$1/opt/tritonserver packages
    packages=$(echo .venv/lib/python3.*/site-packages)
    mkdir -p "$triton/lib"
    cp -r "$packages/pytriton/tritonserver"/{bin,backends,caches} "$triton/"
    cp "$packages/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub" "$triton/backends/python/"
    cp "$packages/nvidia_pytriton.libs"/* "$triton/lib/"
    chmod +x "$triton/bin/tritonserver" "$triton/backends/python/triton_python_backend_stub"
    echo /opt/tritonserver/lib >"$1/etc/ld.so.conf.d/tritonserver.conf"
    chroot "$1" ldconfig
}

# ---- the image ----

# The build's context has a canary where a secret might lie, and another in the secret that pip is configured by.
build_image() {
    local context=$WORK/context port
    rm -rf "$context" && mkdir -p "$context/.ananke/keys" "$context/client/__pycache__"
    git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --create | tar --extract --directory "$context"
    echo canary-of-the-context | tee "$context/.env" "$context/.ananke/keys/signing.pem" >"$context/client/__pycache__/canary"
    port=$(.venv/bin/python -c 'from ananke_server.ports import free_ports; print(*free_ports(1))')
    .venv/bin/python -m http.server --bind 127.0.0.1 --directory "$WHEELS" "$port" >/dev/null 2>&1 &
    wheel_server=$!
    printf '[global]\nno-index = true\nfind-links = http://127.0.0.1:%s/?token=canary-of-the-secret\n' "$port" >"$WORK/pip.conf"
    stores build --format docker --isolation chroot --layers --file Dockerfile.triton --tag "$IMAGE" \
        --build-arg BASE_IMAGE="$BASE" --build-arg LOCK=image-cpu --build-arg REVISION="$(git rev-parse HEAD)" \
        --secret id=pip,src="$WORK/pip.conf" "$context" >"$WORK/build.log" 2>&1 || fail_with_log "$WORK/build.log"
    stop_wheel_server
}

check_container() {
    local root
    stores inspect --type image "$IMAGE" >"$WORK/image.json"
    container=$(stores from "$IMAGE")
    root=$(stores mount "$container")
    .venv/bin/python scripts/image_checks.py "$root" "$WORK/image.json" "$WORK/volumes"
}

# ---- around it ----

timed() { # NAME COMMAND...
    local begin=$EPOCHREALTIME
    "${@:2}"
    awk -v name="$1" -v from="${begin/,/.}" -v to="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%-50s %6.1f s\n", name, to - from }'
}

stop_wheel_server() {
    [[ -z $wheel_server ]] || kill "$wheel_server" 2>/dev/null || true
    wheel_server=""
}

leave() {
    stop_wheel_server
    [[ -n ${KEEP:-} ]] || clean_up
}

clean_up() {
    stores rm --all >/dev/null 2>&1 || true
    stores rmi --all --force >/dev/null 2>&1 || true
    rm -rf "$WORK"/{storage,runroot,base,context,volumes}
}

fail() { echo "image-test: $1" >&2; exit 1; }

fail_with_log() { tail -n 30 "$1" >&2; fail "failed; the whole log is $1"; }

main "$@"
