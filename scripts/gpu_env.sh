# shellcheck shell=bash
# Sourced by the gpu_*.sh, in the project's folder: has python3 find this tree, in Triton's isolated stub too, and ends the
# script at once where something is missing, before minutes of a GPU are spent.
python3 - "$PWD" <<'PY' || exit 1
import pathlib, sys, sysconfig
tree = pathlib.Path(sys.argv[1])
pathlib.Path(sysconfig.get_path("purelib"), "_ananke_tree.pth").write_text(f"{tree}/client\n{tree}/server\n")
PY
if ! missing=$(python3 -c '
import ananke_server.constraints, ananke_server.masking.crew, ananke_server.provenance, ananke_server.settings
import ananke_client.grpc_client, tritonclient.grpc, vllm.sampling_params' 2>&1); then
    echo "something is missing: ${missing##*$'\n'}"
    exit 1
fi
