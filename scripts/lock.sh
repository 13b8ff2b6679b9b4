#!/usr/bin/env bash
# Resolve pyproject.toml into the lock files under requirements/ (needs uv on PATH).
#   cpu    a machine without a GPU      gpu          the same with one              docs     the site
#   image  the container                image-cpu    a container without a GPU      build    what builds the wheel in it
#   audit  pip-audit
# A lock pins every package, so it is installed with `pip install --no-deps`.
set -euo pipefail
cd "$(dirname "$0")/.."
# Triton 2.51's Python stub reads wrong strides with numpy 2; a container's newer stub, of pybind11 2.12, does not.
stub_numpy=$(mktemp) cpu_versions=$(mktemp); trap 'rm -f "$stub_numpy" "$cpu_versions"' EXIT
echo "numpy==1.26.4" >"$stub_numpy"

resolve() { # NAME ARGUMENT...
    echo "requirements/$1.txt"
    {
        echo "# Made by scripts/lock.sh from pyproject.toml; do not edit."
        uv pip compile --universal --python-version 3.11 --quiet --no-header --no-annotate "${@:2}" |
            sed -E "s/(python_full_version < '3.13'|platform_machine == 'x86_64'|sys_platform == 'linux'|(platform_python_)?implementation(_name)? == '[cC][pP]ython')( and )?//g; s/ *(and|;)? *$//"
    } >"requirements/$1.txt"
}
# PyTorch's CPU build links no CUDA library, though PyPI's metadata of torch names them.
without_cuda() { sed -i -E '/^(cuda-|nvidia-(c|n)|triton==)/d; s/^torch==[0-9.]+/&+cpu/' "requirements/$1.txt"; }

resolve cpu pyproject.toml --extra server --extra cpu --extra local --extra dev --override "$stub_numpy"
without_cuda cpu
resolve gpu pyproject.toml --extra server --extra gpu --extra local --extra dev --override "$stub_numpy"
resolve image pyproject.toml --extra server --extra gpu
# The tests' versions, and their numpy too: the base that `make image-test` assembles has Triton 2.51.
sed 's/+cpu$//' requirements/cpu.txt >"$cpu_versions"
resolve image-cpu pyproject.toml --extra server --extra cpu --override "$stub_numpy" --constraint "$cpu_versions"
without_cuda image-cpu
# Set-up's versions.
resolve build - --constraint requirements/gpu.txt < <(sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml)
resolve docs --group pyproject.toml:docs
resolve audit --group pyproject.toml:audit --constraint requirements/docs.txt
