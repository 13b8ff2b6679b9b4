#!/usr/bin/env bash
# What a container runs: the server in the foreground, through the base image's own entry point where it has one, for its checks of GPU and driver.
#   ARGUMENT...   as scripts/serve.py foreground takes them
set -euo pipefail
readonly BASE_ENTRYPOINT=/opt/nvidia/nvidia_entrypoint.sh
serve=(python3 "${BASH_SOURCE[0]%/*}/serve.py" foreground "$@")
[[ ! -x $BASE_ENTRYPOINT ]] || serve=("$BASE_ENTRYPOINT" "${serve[@]}")
exec "${serve[@]}"
