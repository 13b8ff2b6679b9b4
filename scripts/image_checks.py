"""Run an image as a container and check what Dockerfile.triton promises: who it runs as, what it keeps, what it serves, how it ends.

    image_checks.py ROOT IMAGE.json VOLUMES     the image's mounted files, its configuration by `buildah inspect`, a folder for its volumes

The container is bubblewrap's: namespaces of its own, a root that is read-only, no capabilities, 1 GiB of shared memory, and no network
but its own loopback.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from textwrap import shorten
from typing import Any

from image_container import Container, Image

from ananke_server.launch import DEFAULT_MODEL

PATTERN = "def [a-z_]{3,20}[(]a: int, b: int[)] -> int:\n    return [ab] [-+*] [ab]\n"
LONG_PATTERN = "[a-z]{2,8}( [a-z]{2,8}){20}[.]"
SCHEMA = '{"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"], "additionalProperties": false}'
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
BASES_OWN = "/usr/lib/", "/opt/tritonserver/"  # GnuTLS has keys in it, for its tests of itself
CANARY = b"canary-of-the-"
READY_SECONDS = 600
DRAIN_SECONDS = 60


def main() -> int:
    root, inspected, volumes = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    image = Image(root, json.loads(inspected.read_text()))
    show_layers(image)
    check_configuration(image)
    check_files(image, inspected)
    shutil.rmtree(volumes, ignore_errors=True)
    with Container(image, volumes, model=DEFAULT_MODEL) as container:
        wait_until_healthy(container)
        check_processes(container)
        check_generation(container)
        check_orphans(container)
        check_end(container)
    check_volumes(volumes)
    return 0


def show_layers(image: Image) -> None:
    print("layers above the base:")
    for size, command in image.layers()[1:]:
        instruction = re.sub(r"^(\|.*?)?/bin/sh -c (#\(nop\) )?(--mount\S+ )?|\s{2,}", " ", command).strip()
        print(f"  {size / 1e6:9.3f} MB  {shorten(instruction, 110)}")


def check_configuration(image: Image) -> None:
    config = image.config
    check(config["User"] == "10001:10001", f"user {config['User']}")
    check(config["Healthcheck"]["Test"][0] == "CMD", f"health check {' '.join(image.health_command)}")
    check(set(config["ExposedPorts"]) == {f"{port}/tcp" for port in (8000, 8001, 8002)}, f"ports {', '.join(config['ExposedPorts'])}")
    check(len(config["Volumes"]) == 2, f"volumes {', '.join(config['Volumes'])}")
    labels = {name: value for name, value in config["Labels"].items() if name.startswith("org.opencontainers.image.")}
    check(len(labels) == 5 and all(labels.values()), f"labels {json.dumps(labels)}")


def check_files(image: Image, inspected: Path) -> None:
    """No secret in a file, a name or the configuration of the image, and nothing that its user could change but what is meant to change."""
    check(CANARY not in inspected.read_bytes(), "no secret of the build in the image's configuration and history")
    found = [image.name(path) for path in image.files() if has_secret(image.name(path), path.read_bytes())]
    check(not found, f"no secret of the build or its context, and no private key, in a file {found or ''}".rstrip())
    for name in "tests", "scripts/make_model.py", ".git", "client", "requirements":
        check(not (image.root / "opt/ananke" / name).exists(), f"no {name}")
    writable = [image.name(path) for path in image.writable_by(10001)]
    expected = ["/var/cache/ananke", "/var/cache/ananke/compile", "/var/cache/ananke/models", "/var/lib/ananke"]
    check(sorted(writable) == expected, f"its user can write in {', '.join(writable)} alone")


def has_secret(name: str, content: bytes) -> bool:
    return CANARY in content or (not name.startswith(BASES_OWN) and PRIVATE_KEY.search(content) is not None)


def wait_until_healthy(container: Container) -> None:
    begin = time.monotonic()
    while (answer := container.execute(container.image.health_command)).returncode != 0:
        check(container.running, f"the container has ended; its log is {container.log}", quiet=True)
        waited = time.monotonic() - begin
        check(waited < READY_SECONDS, f"not healthy after {waited:.0f} s:\n{answer.stdout}{answer.stderr}", quiet=True)
        time.sleep(1)
    print(f"ok    healthy after {time.monotonic() - begin:.0f} s, by its own health check:")
    print("".join(f"        {line}\n" for line in answer.stdout.splitlines()), end="")


def check_processes(container: Container) -> None:
    processes = list(container.processes())
    users = {process.uids for process in processes}
    check(users == {(10001,) * 4}, f"{len(processes)} processes, all of the user {sorted(users)}")
    check(all(process.capabilities == 0 for process in processes), "none has a capability")
    first = next(process for process in processes if process.pid == 1)
    check("serve.py foreground" in first.command, f"the first is {first.command}")
    failed = container.execute(["touch", "/opt/ananke/model_repository/x"])
    check(failed.returncode != 0, f"it cannot write its code: {failed.stderr.strip()}")


def check_generation(container: Container) -> None:
    result = generate(container, "A Python function that adds two numbers:\n", "--regex", PATTERN)
    check(re.fullmatch(PATTERN, result["text"]) is not None, f"regex, over gRPC: {result['text']!r}")
    result = generate(container, "A user, as JSON: ", "--schema", SCHEMA, "--http")
    value = json.loads(result["text"])
    check(set(value) == {"age"} and isinstance(value["age"], int) and value["age"] >= 0, f"JSON schema, over HTTP: {value}")
    versions = result["provenance"]["predicate"]["versions"]
    check(bool(versions.get("ananke-triton")), f"versions {json.dumps(versions)}")
    metrics = container.execute(["python3", "-c", "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8002/metrics').read().decode())"])
    check("nv_inference_request_success" in metrics.stdout, "metrics on port 8002")


def generate(container: Container, prompt: str, *options: str) -> dict[str, Any]:
    answer = container.execute(["ananke", "generate", prompt, *options, "--max-tokens", "60", "--seed", "7", "--json"])
    check(answer.returncode == 0, f"ananke generate ends with {answer.returncode}: {answer.stderr}", quiet=True)
    result: dict[str, Any] = json.loads(answer.stdout)
    check(result["constraint_satisfied"] is True and result["guarantee"] == "exact", "satisfied, exactly", quiet=True)
    return result


def check_orphans(container: Container) -> None:
    """What ends without a parent of its own must not stay as a zombie: its parent is now the container's first process."""
    container.execute(["sh", "-c", "(sleep 0.2 &)"])
    time.sleep(2)
    zombies = [process for process in container.processes() if process.state == "Z"]
    check(not zombies, f"an orphan that has ended is gone {zombies or ''}".rstrip())


def check_end(container: Container) -> None:
    """A generation under way when the container is told to stop is finished first."""
    with container.start(["ananke", "generate", "Words: ", "--regex", LONG_PATTERN, "--max-tokens", "200", "--seed", "7"]) as client:
        assert client.stdout is not None
        first = client.stdout.read(1)
        begin = time.monotonic()
        container.signal(signal.SIGTERM)
        rest, _ = client.communicate(timeout=DRAIN_SECONDS)
    drained = time.monotonic() - begin
    text = (first + rest).decode()
    whole = client.returncode == 0 and re.fullmatch(LONG_PATTERN, text) is not None
    check(whole, f"SIGTERM while it writes: {text!r}, at its end {drained:.1f} s later")
    status = container.wait(DRAIN_SECONDS)
    check(status == 128 + signal.SIGTERM, f"ended with status {status}, {time.monotonic() - begin:.1f} s after SIGTERM")
    check(not list(container.processes()), "no process is left")


def check_volumes(volumes: Path) -> None:
    for volume in sorted(volumes.iterdir()):
        files = [path for path in volume.rglob("*") if path.is_file()]
        print(f"      volume {volume.name}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")
    check(any(volumes.rglob("digests.json")), "the model's digests outlive it")


def check(passed: bool, what: str, *, quiet: bool = False) -> None:
    if not passed:
        raise SystemExit(f"FAIL  {what}")
    if not quiet:
        print(f"ok    {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
