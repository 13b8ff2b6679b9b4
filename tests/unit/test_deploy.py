"""scripts/deploy.sh with a docker, an nvidia-smi and a df of the test's own on PATH."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ananke_server.launch import PROJECT
from ananke_server.ports import free_ports
from ananke_server.settings import load_settings

SCRIPT = str(PROJECT / "scripts" / "deploy.sh")
SECRETS = {"NGC_API_KEY": "ngc-secret-4711", "HF_TOKEN": "hf-secret-0815"}
H100 = "0, 81559, 81000, 580.95.05, GPU-0, NVIDIA H100 80GB HBM3"
H100_IN_USE = H100.replace("81000", "8000")
A10 = "0, 23028, 22500, 580.95.05, GPU-0, NVIDIA A10"
REPLACED = ["build", "stop", "rm", "rename", "run", "rm", "rm"]
KEYS_VOLUME = r"ananke-keys-\d{8}-\d{6}"

# Notes each call with its environment's secrets and its standard input, and plays the scenario of $SCENE.
DOCKER = f"""#!{sys.executable}
import json, os, sys, pathlib
scene = json.loads(os.environ["SCENE"])
verb, *rest = sys.argv[1:]
stdin = sys.stdin.read() if {{"--password-stdin", "--interactive"}} & set(rest) else None
env = {{name: os.environ[name] for name in ("HF_TOKEN", "ANANKE_SIGNING_KEY") if name in os.environ}}
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps({{"argv": sys.argv[1:], "stdin": stdin, "env": env}}) + "\\n")
tries = pathlib.Path(os.environ["CALLS"]).read_text().count('["exec"')
fails = scene.get("fails", [])
if verb in fails and "--interactive" not in rest or "put" in fails and "--interactive" in rest:
    sys.exit(f"docker: {{verb}} went wrong")
if verb == "info":
    print(scene.get("info", "28.2.2|/var/lib/docker|io.containerd.runc.v2 nvidia runc "))
elif verb == "inspect" and "RestartCount" in rest[1]:
    print(scene.get("state", "running 0"))
elif verb == "inspect":
    print(scene["container"]) if "container" in scene else sys.exit("Error: No such object")
elif verb == "top":
    print("PID", *scene.get("pids", []), sep="\\n")
elif verb == "port":
    for port in scene.get("ports", []):
        print(f"8000/tcp -> 127.0.0.1:{{port}}")
elif verb == "exec":
    if rest[1:] != ["ananke", "health", "--http", "--generate"]:
        sys.exit("Error: a server with TLS would not understand it")
    sys.exit(0 if tries >= scene.get("ready_after", 1) else 1)
elif verb == "volume" and rest[0] == "ls":
    print(*scene.get("volumes", []), sep="\\n")
elif verb == "logs":
    print("ValueError: the last words of the server")
"""


@dataclass
class Machine:
    """A machine that is only said to have docker and GPUs."""

    folder: Path
    calls_file: Path
    environment: dict[str, str]

    def deploy(
        self,
        *options: str,
        code: int = 0,
        gpus: str = H100,
        held: str = "",
        free_gib: int = 500,
        scene: dict | None = None,
        **environment: str,
    ):
        """Its output, standard error included; the script has to exit with ``code``. ``held``: what nvidia-smi tells of processes."""
        self.prepare(gpus, free_gib, held)
        done = subprocess.run(
            [SCRIPT, *options],
            env=self.environment | {"SCENE": json.dumps(scene or {})} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout
        if code:
            assert re.search(r"^deploy: ", done.stdout, re.MULTILINE), done.stdout
        return done.stdout

    def prepare(self, gpus: str, free_gib: int, held: str = "") -> None:
        apps = f"case $* in *query-compute-apps*) printf '{held}'; exit;; esac"
        self.write("nvidia-smi", f"#!/bin/sh\n{apps}\ncat <<'GPUS'\n{gpus}\nGPUS\n")
        self.write("df", f"#!/bin/sh\necho header\necho disk 1 1 {free_gib * 1024**2} 1 /\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def calls(self, verb: str = "") -> list[dict]:
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [call for call in map(json.loads, lines) if not verb or call["argv"][0] == verb]

    def changes(self) -> list[str]:
        reads = ("info", "inspect", "exec", "logs", "top", "port")
        return [call["argv"][0] for call in self.calls() if call["argv"][0] not in reads and call["argv"][:2] != ["volume", "ls"]]

    def removed_volumes(self) -> list[str]:
        removals = [call["argv"] for call in self.calls("volume") if call["argv"][1] == "rm"]
        assert not [argv for argv in removals if "--force" in argv], "of a volume in use Docker then says nothing"
        return [argv[-1] for argv in removals]

    def run_options(self) -> list[str]:
        return next(call["argv"] for call in self.calls("run") if "--detach" in call["argv"])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Machine(folder, tmp_path / "calls", {})
    made.write("docker", DOCKER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANANKE_") and name not in SECRETS}
    made.environment = kept | {"PATH": f"{folder}:/usr/bin:/bin", "CALLS": str(made.calls_file), "DEPLOY_POLL_SECONDS": "0.01"}
    return made


@pytest.fixture
def ports() -> list[str]:
    """Ports that are free, so that a server of this machine is in nobody's way."""
    return [f"--{name}-port {port}" for name, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)]


@pytest.fixture
def unattended(ports: list[str]) -> list[str]:
    return ["--yes", *shlex.split(" ".join(ports))]


def value_of(argv: list[str], option: str) -> list[str]:
    return [after for before, after in itertools.pairwise(argv) if before == option]


# what is done


def test_production_is_built_run_and_seen_generating(machine: Machine, unattended: list[str]) -> None:
    said = machine.deploy(*unattended, "--mode", "prod", scene={"ready_after": 3})
    assert machine.changes() == ["build", "run"]
    assert machine.calls("build")[0]["argv"][1:] == ["--file", f"{PROJECT}/Dockerfile.triton", "--tag", "ananke-triton", str(PROJECT)]
    argv = machine.run_options()
    assert argv[-1] == "ananke-triton"
    assert value_of(argv, "--gpus") == ['"device=0"']
    assert value_of(argv, "--restart") == ["unless-stopped"]
    settings = load_settings({"ANANKE_CONFIG": os.devnull} | dict(setting.split("=", 1) for setting in value_of(argv, "--env")))
    assert (settings.preset, settings.model) == ("production", "Qwen/Qwen2.5-Coder-7B-Instruct")
    volumes = {"models": "/var/cache/ananke/models", "compile": "/var/cache/ananke/compile", "state": "/var/lib/ananke"}
    assert set(value_of(argv, "--volume")) == {f"ananke-{name}:{path}" for name, path in volumes.items()}
    assert all(port.startswith("127.0.0.1:") for port in value_of(argv, "--publish"))
    assert machine.calls("exec")[-1]["argv"] == ["exec", "ananke", "ananke", "health", "--http", "--generate"]
    assert len(machine.calls("exec")) == 3
    assert "ananke generate" in said


def test_a_dry_run_changes_nothing_and_prints_what_it_would_do(machine: Machine, unattended: list[str]) -> None:
    said = machine.deploy(*unattended, "--mode", "dev", "--dry-run", **SECRETS)
    assert machine.changes() == []
    printed = [shlex.split(line[2:]) for line in said.splitlines() if line.startswith("+ ")]
    assert [command[:2] for command in printed] == [["docker", "login"], ["docker", "build"], ["docker", "run"]]
    assert "ANANKE_PRESET=development" in printed[2]
    assert value_of(printed[2], "--restart") == ["no"]


def test_credentials_are_never_on_a_command_line(machine: Machine, unattended: list[str]) -> None:
    said = machine.deploy(*unattended, "--mode", "prod", "--model", "meta-llama/Llama-3.1-8B-Instruct", **SECRETS)
    assert machine.calls("login")[0]["stdin"].strip() == SECRETS["NGC_API_KEY"]
    assert "HF_TOKEN" in value_of(machine.run_options(), "--env")
    assert machine.calls("run")[0]["env"]["HF_TOKEN"] == SECRETS["HF_TOKEN"]
    for secret in SECRETS.values():
        assert secret not in said
        assert all(secret not in word for call in machine.calls() for word in call["argv"])


def test_settings_of_the_environment_are_handed_on_by_name(machine: Machine, unattended: list[str]) -> None:
    machine.deploy(*unattended, "--mode", "prod", ANANKE_MAX_NUM_SEQS="64", ANANKE_HTTP_PORT="9", ANANKE_RUN_DIR="/here")
    handed = value_of(machine.run_options(), "--env")
    assert "ANANKE_MAX_NUM_SEQS" in handed
    assert "ANANKE_HTTP_PORT=8000" in handed, "the container's ports are not the machine's"
    assert not {"ANANKE_HTTP_PORT", "ANANKE_RUN_DIR"} & set(handed)


@pytest.mark.parametrize("by", ["file", "text", "configuration"])
def test_the_signing_key_is_a_file_in_the_container_and_in_nothing_that_docker_shows(
    machine: Machine, unattended: list[str], tmp_path: Path, by: str
) -> None:
    (tmp_path / "key.pem").write_text("BEGIN\nPRIVATE\n")
    (tmp_path / "config.yaml").write_text(f"security:\n  signing_key_file: {tmp_path}/key.pem\n")
    options, given = {
        "file": ([], {"ANANKE_SIGNING_KEY_FILE": str(tmp_path / "key.pem")}),
        "text": ([], {"ANANKE_SIGNING_KEY": "BEGIN\\nPRIVATE"}),
        "configuration": (["--config", str(tmp_path / "config.yaml")], {}),
    }[by]
    said = machine.deploy(*unattended, "--mode", "prod", *options, **given)
    assert machine.changes() == ["build", "run", "run"]
    put, run = machine.calls("run")
    assert put["stdin"] == "BEGIN\nPRIVATE\n"
    (volume,) = value_of(put["argv"], "--volume")
    assert re.fullmatch(f"{KEYS_VOLUME}:/run/secrets/ananke", volume)
    assert "umask 077" in put["argv"][-1]
    assert "chown -R 10001:10001" in put["argv"][-1]
    assert f"{volume}:ro" in value_of(run["argv"], "--volume")
    assert "ANANKE_SIGNING_KEY_FILE=/run/secrets/ananke/signing_key_file" in value_of(run["argv"], "--env")
    assert not [word for call in machine.calls() for word in call["argv"] if "PRIVATE" in word or word == "ANANKE_SIGNING_KEY"]
    assert "PRIVATE" not in said


def test_a_key_that_the_configuration_holds_is_the_only_one(machine: Machine, unattended: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("security: {signing_key: here}\n")
    (tmp_path / "key.pem").write_text("PRIVATE")
    ambient = {"ANANKE_SIGNING_KEY_FILE": str(tmp_path / "key.pem"), "ANANKE_SIGNING_KEY": "PRIVATE"}
    for given in ambient.items():
        machine.deploy(*unattended, "--config", str(tmp_path / "config.yaml"), **dict([given]))
    assert machine.changes() == ["build", "run"] * 2
    assert not [word for word in machine.run_options() if "SIGNING_KEY" in word]


def test_volumes_of_keys_that_no_container_has_any_more_go(machine: Machine, unattended: list[str]) -> None:
    """Docker itself keeps those that one has."""
    others = ["ananke-models", "ananke-keys-mine", "two-keys-20260102-030405"]
    before = ["ananke-keys", "ananke-keys-20260102-030405"]
    scene = {"container": "exited yes", "volumes": [*others, *before]}
    machine.deploy(*unattended, "--mode", "prod", scene=scene)
    assert machine.removed_volumes() == before
    last = [call["argv"][:2] for call in machine.calls() if call["argv"][0] in ("exec", "rm", "volume")][-3:]
    assert last == [["volume", "ls"], ["volume", "rm"], ["volume", "rm"]], "only once the new server has generated"


@pytest.mark.parametrize("fails", ["put", "run", "generate"])
def test_a_deployment_that_fails_leaves_the_keys_of_the_one_before(
    machine: Machine, unattended: list[str], tmp_path: Path, fails: str
) -> None:
    (tmp_path / "key.pem").write_text("PRIVATE")
    scene: dict = {"container": "running yes", "volumes": ["ananke-keys-20260102-030405"]}
    scene |= {"put": {"fails": ["put"]}, "run": {"fails": ["run"]}, "generate": {"ready_after": 99, "state": "exited 0"}}[fails]
    machine.deploy(*unattended, "--mode", "prod", scene=scene, code=1, ANANKE_SIGNING_KEY_FILE=str(tmp_path / "key.pem"))
    put = [call["argv"] for call in machine.calls("run") if "--interactive" in call["argv"]]
    assert put
    for argv in put:
        assert re.fullmatch(f"{KEYS_VOLUME}:/run/secrets/ananke", value_of(argv, "--volume")[0]), "no other deployment's"


def test_a_key_that_cannot_be_read_or_is_two_is_told(machine: Machine, unattended: list[str], tmp_path: Path) -> None:
    assert "deploy: /none.pem cannot be read" in machine.deploy(*unattended, code=1, ANANKE_SIGNING_KEY_FILE="/none.pem")
    (tmp_path / "key.pem").write_text("PRIVATE")
    both = {"ANANKE_SIGNING_KEY_FILE": str(tmp_path / "key.pem"), "ANANKE_SIGNING_KEY": "PRIVATE"}
    assert "are both set" in machine.deploy(*unattended, code=1, **both)
    assert machine.changes() == []


CONFIGURATION = """
preset: development   # of mine
model:
  # model: commented/out
  model: "me/mine-1b"   # the one
gpu: {tensor_parallel_size: 2, gpu_memory_utilization: 0.5}
container:
  start_timeout: 77.0
  idle_timeout: null
service:
  http_port: 18000
performance:
  #max_pending: 3
  max_num_seqs: 13
"""
TWO_GPUS = "\n".join(f"{n}, 81559, 60000, 580.1, GPU-{n}, NVIDIA H100" for n in range(2))
AMBIENT = {
    "ANANKE_MODEL": "env/model",
    "ANANKE_TENSOR_PARALLEL_SIZE": "1",
    "ANANKE_GPU_MEMORY_UTILIZATION": "0.9",
    "ANANKE_START_TIMEOUT": "5",
    "ANANKE_PRESET": "production",
    "ANANKE_MAX_NUM_SEQS": "4",
    "ANANKE_MAX_PENDING": "44",
}


def test_what_the_configuration_says_is_stronger_than_the_environment(machine: Machine, ports: list[str], tmp_path: Path) -> None:
    """40 GiB of each GPU are asked for and 58.6 are free: by the environment's share it would not do."""
    (tmp_path / "config.yaml").write_text(CONFIGURATION)
    options = ["--yes", "--config", str(tmp_path / "config.yaml"), *shlex.split(" ".join(ports[1:]))]
    said = machine.deploy(*options, gpus=TWO_GPUS, **AMBIENT)
    argv = machine.run_options()
    handed = value_of(argv, "--env")
    assert set(handed) == {
        *("ANANKE_CONFIG=/etc/ananke/config.yaml", "ANANKE_MAX_PENDING"),
        *("ANANKE_HTTP_PORT=8000", "ANANKE_GRPC_PORT=8001", "ANANKE_METRICS_PORT=8002"),
    }
    assert value_of(argv, "--gpus")[0].count(",") == 1
    assert "127.0.0.1:18000:8000" in value_of(argv, "--publish")
    assert "ANANKE_MAX_NUM_SEQS is not handed on" in said
    assert re.search("model +me/mine-1b", said)
    in_container = {"ANANKE_CONFIG": str(tmp_path / "config.yaml"), "ANANKE_MAX_PENDING": "44"}
    settings = load_settings(in_container | dict(word.split("=", 1) for word in handed if "_PORT=" in word))
    assert (settings.model, settings.preset, settings.tensor_parallel_size) == ("me/mine-1b", "development", 2)
    assert (settings.max_num_seqs, settings.start_timeout, settings.idle_timeout) == (13, 77, None)


@pytest.mark.parametrize("by", ["environment", "configuration"])
def test_stages_take_gpus_of_their_own(machine: Machine, unattended: list[str], tmp_path: Path, by: str) -> None:
    """27.6 GiB of weights on two A10 of 20.2 usable."""
    (tmp_path / "config.yaml").write_text("gpu: {pipeline_parallel_size: 2}\n")
    options = ["--model", "Qwen/Qwen2.5-Coder-14B-Instruct"]
    options += ["--config", str(tmp_path / "config.yaml")] if by == "configuration" else []
    environment = {"ANANKE_PIPELINE_PARALLEL_SIZE": "2"} if by == "environment" else {}
    machine.deploy(*unattended, *options, gpus=A10 + "\n1" + A10[1:], **environment)
    argv = machine.run_options()
    assert value_of(argv, "--gpus")[0].count(",") == 1
    assert "ANANKE_TENSOR_PARALLEL_SIZE=1" in value_of(argv, "--env")
    assert ("ANANKE_PIPELINE_PARALLEL_SIZE" in value_of(argv, "--env")) == (by == "environment")
    refused = machine.deploy(*unattended, *options, "--gpus", "2", gpus=A10 + "\n1" + A10[1:], code=1, **environment)
    assert "--gpus 2 for each of 2 stages, but this machine has 2" in refused


def test_an_option_is_stronger_than_the_configuration(machine: Machine, unattended: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIGURATION)
    options = ["--config", str(tmp_path / "config.yaml"), "--mode", "prod", "--model", "you/yours-1b", "--gpus", "1", "--timeout", "99"]
    machine.deploy(*unattended, *options, gpus=TWO_GPUS, **AMBIENT)
    handed = value_of(machine.run_options(), "--env")
    said = {"ANANKE_PRESET=production", "ANANKE_MODEL=you/yours-1b", "ANANKE_TENSOR_PARALLEL_SIZE=1", "ANANKE_START_TIMEOUT=99"}
    assert said < set(handed)
    assert not [publish for publish in value_of(machine.run_options(), "--publish") if "18000" in publish]


def test_the_environment_is_stronger_than_the_defaults(machine: Machine, unattended: list[str]) -> None:
    machine.deploy(*unattended, gpus=TWO_GPUS.replace("60000", "81000"), **AMBIENT | {"ANANKE_TENSOR_PARALLEL_SIZE": "2"})
    handed = value_of(machine.run_options(), "--env")
    assert {"ANANKE_MODEL=env/model", "ANANKE_TENSOR_PARALLEL_SIZE=2", "ANANKE_START_TIMEOUT=5", "ANANKE_MAX_NUM_SEQS"} < set(handed)


def test_files_of_keys_and_certificates_are_put_where_they_are_named(machine: Machine, unattended: list[str], tmp_path: Path) -> None:
    variables = {f"ANANKE_{name}_FILE": tmp_path / name for name in ("API_KEY", "TLS_CERTIFICATE", "TLS_KEY")}
    for file in variables.values():
        file.write_text(f"of {file.name}")
    machine.deploy(*unattended, "--mode", "prod", **{name: str(file) for name, file in variables.items()})
    put = {call["stdin"]: call["argv"][-1] for call in machine.calls("run") if "--interactive" in call["argv"]}
    for name, file in variables.items():
        place = f"/run/secrets/ananke/{name.removeprefix('ANANKE_').lower()}"
        assert f"{name}={place}" in value_of(machine.run_options(), "--env")
        assert f"cat >{place} " in put[f"of {file.name}\n"]
    refused = machine.deploy(*unattended, "--mode", "prod", ANANKE_API_KEY_FILE=str(tmp_path / "nothing"), code=1)
    assert "nothing cannot be read" in refused


def test_with_tls_there_is_no_http_outside_the_container(machine: Machine, unattended: list[str], tmp_path: Path) -> None:
    variables = {f"ANANKE_{name}_FILE": tmp_path / name for name in ("TLS_CERTIFICATE", "TLS_KEY")}
    for file in variables.values():
        file.write_text("PEM")
    names = ("API_KEY_PATH", "CA_FILE", "CLIENT_CERTIFICATE_FILE", "CLIENT_KEY_FILE")
    of_the_client = {f"ANANKE_{name}": "/here/file" for name in names}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = [*unattended, "--mode", "prod", "--http-port", str(taken.getsockname()[1])]
        said = machine.deploy(*options, **{name: str(file) for name, file in variables.items()}, **of_the_client)
    argv = machine.run_options()
    assert [publish.rpartition(":")[2] for publish in value_of(argv, "--publish")] == ["8001", "8002"]
    assert not of_the_client.keys() & {word.partition("=")[0] for word in value_of(argv, "--env")}
    assert re.search(r"ananke generate .* --server 127\.0\.0\.1:\d+$", said, re.MULTILINE)
    assert "HTTP" not in said


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "the server neither encrypts nor asks for a key"),
        (["API_KEY"], "the server asks for keys but does not encrypt"),
        (["TLS_CERTIFICATE", "TLS_KEY"], "the server asks for no key"),
        (["TLS_CERTIFICATE", "TLS_KEY", "API_KEY"], "the metrics port neither encrypts nor asks for a key"),
        (["TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA"], "the metrics port neither encrypts nor asks for a key"),
    ],
)
def test_of_what_others_can_reach_is_told_what_holds(
    machine: Machine, unattended: list[str], tmp_path: Path, files: list[str], says: str
) -> None:
    (tmp_path / "file").write_text("PEM")
    given = {f"ANANKE_{name}_FILE": str(tmp_path / "file") for name in files}
    assert f"others can reach 0.0.0.0: {says}" in machine.deploy(*unattended, "--bind", "0.0.0.0", **given)
    assert "others can reach" not in machine.deploy(*unattended, "--bind", "::1", **given)


def test_custom_takes_a_configuration_a_folder_and_several_gpus(machine: Machine, unattended: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"0" * 1024)
    gpus = "\n".join(f"{n}, 81559, {81000 + n}, 580.1, GPU-{n}, NVIDIA H100" for n in range(3))
    options = ["--mode", "custom", "--config", str(tmp_path / "config.yaml"), "--model", str(model), "--gpus", "2", "--no-build"]
    printed = machine.deploy(*unattended, *options, "--bind", "0.0.0.0", gpus=gpus)
    argv = machine.run_options()
    assert machine.changes() == ["run"]
    assert value_of(argv, "--gpus") == ['"device=2,1"'], "those with the most free memory"
    assert {f"{model}:/model:ro", f"{tmp_path}/config.yaml:/etc/ananke/config.yaml:ro"} < set(value_of(argv, "--volume"))
    said = {word for word in value_of(argv, "--env") if "_PORT=" not in word and "_TIMEOUT=" not in word}
    assert said == {"ANANKE_MODEL=/model", "ANANKE_TENSOR_PARALLEL_SIZE=2", "ANANKE_CONFIG=/etc/ananke/config.yaml"}
    assert "neither encrypts" in printed


@pytest.mark.parametrize(("drain", "stop"), [({}, "60"), ({"ANANKE_DRAIN_TIMEOUT": "0"}, "40"), ({"ANANKE_DRAIN_TIMEOUT": "90.5"}, "130")])
def test_a_container_has_the_time_to_drain(machine: Machine, unattended: list[str], drain: dict[str, str], stop: str) -> None:
    machine.deploy(*unattended, "--mode", "prod", **drain)
    assert value_of(machine.run_options(), "--stop-timeout") == [stop]


def test_a_drain_of_no_time_is_refused(machine: Machine, unattended: list[str]) -> None:
    said = machine.deploy(*unattended, "--mode", "prod", code=1, ANANKE_DRAIN_TIMEOUT="soon")
    assert "drain_timeout is a number of seconds, not soon" in said


def test_a_container_of_its_own_is_replaced_after_it_has_drained(machine: Machine, unattended: list[str]) -> None:
    machine.deploy(*unattended, "--mode", "prod", scene={"container": "running yes"})
    assert machine.changes() == REPLACED
    assert machine.calls("stop")[0]["argv"] == ["stop", "ananke"], "it was run with as much time as it needs"
    assert machine.calls("rename")[0]["argv"] == ["rename", "ananke", "ananke-before"]
    assert [call["argv"][-1] for call in machine.calls("rm")] == ["ananke-before", "ananke-before", "ananke-failed"]


@pytest.mark.parametrize(
    ("scene", "options", "says"),
    [
        ({"fails": ["run"]}, [], "could not be started"),
        ({"ready_after": 99, "state": "exited 0"}, [], "ended before it could generate(.|\n)*last words"),
        ({"ready_after": 999}, ["--timeout", "1"], "after 1 s the server cannot generate; the end"),
    ],
)
@pytest.mark.parametrize("before", ["running", "restarting", "exited"])
def test_the_server_from_before_serves_again_where_the_new_one_does_not(
    machine: Machine, unattended: list[str], scene: dict, options: list[str], says: str, before: str
) -> None:
    said = machine.deploy(*unattended, *options, scene=scene | {"container": f"{before} yes"}, code=1)
    assert re.search(says, said), said
    assert [call["argv"][1:] for call in machine.calls("rename")][-2:] == [["ananke", "ananke-failed"], ["ananke-before", "ananke"]]
    assert [call["argv"] for call in machine.calls("start")] == ([] if before == "exited" else [["start", "ananke"]])
    assert len(machine.calls("stop")) >= (1 if before == "exited" else 2), "one that restarts for ever would take the GPU again"
    assert f"the one from before again ({before})" in said


def test_an_address_of_ipv6_is_published_as_docker_writes_it(machine: Machine, unattended: list[str]) -> None:
    said = machine.deploy(*unattended, "--bind", "::1", "--http-port", "7008")
    assert "[::1]:7008:8000" in value_of(machine.run_options(), "--publish")
    assert "--server http://[::1]:7008" in said


@pytest.mark.parametrize("used", ["73000", "[N/A]"])
def test_the_memory_that_it_holds_itself_counts_as_free(machine: Machine, unattended: list[str], used: str) -> None:
    scene = {"container": "running yes", "pids": [41, 42]}
    machine.deploy(*unattended, gpus=H100_IN_USE, held=f"42, GPU-0, {used}\\n", scene=scene)
    assert machine.changes() == REPLACED


def test_the_memory_that_others_hold_does_not(machine: Machine, unattended: list[str]) -> None:
    scene = {"container": "running yes", "pids": [41, 42]}
    held = r"42, GPU-0, 40000\n99, GPU-0, 33000\n"
    assert "only 46.9 of 79.6 GiB" in machine.deploy(*unattended, gpus=H100_IN_USE, held=held, scene=scene, code=1)
    scene["container"] = "exited yes"
    assert "only 7.8 of 79.6 GiB" in machine.deploy(*unattended, gpus=H100_IN_USE, held=held, scene=scene, code=1)
    assert machine.changes() == []


def test_of_the_ports_its_own_will_be_free_and_new_ones_must_be(machine: Machine, unattended: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = [*unattended, "--http-port", port]
        assert f"port {port} of 127.0.0.1 is taken" in machine.deploy(*options, scene={"container": "running yes", "ports": [1]}, code=1)
        machine.deploy(*options, scene={"container": "running yes", "ports": [1, port]})
    assert machine.changes() == REPLACED
    assert "need a port of their own" in machine.deploy(*unattended, "--http-port", "7000", "--grpc-port", "7000", code=1)


def test_the_documented_options_are_those_of_its_help(machine: Machine) -> None:
    text = (PROJECT / "docs" / "DEPLOYMENT.md").read_text()
    lines = re.findall(r"^    (?:make deploy|scripts/deploy.sh) .*$", text, re.MULTILINE)
    used = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    assert len(used) > 5
    assert used - {"--help"} <= set(re.findall(r"--[a-z-]+", machine.deploy("--help")))


# what is refused


@pytest.mark.parametrize(
    ("gpus", "options", "says"),
    [
        (A10, ["--model", "Qwen/Qwen2.5-Coder-14B-Instruct"], "does not fit.*27.6 GiB.*20.2.*smaller"),
        (A10 + "\n1" + A10[1:], ["--model", "Qwen/Qwen2.5-Coder-14B-Instruct"], "does not fit.*--gpus 2"),
        (H100, ["--gpus", "2"], "--gpus 2, but this machine has 1"),
        ("0, 81559, 40000, 580.1, GPU-0, H100", [], "only 39.1 of 79.6 GiB.*ANANKE_GPU_MEMORY_UTILIZATION"),
        (H100, ["--model", "meta-llama/Llama-3.1-8B-Instruct"], "gated.*HF_TOKEN"),
        (H100, ["--model", "/no/such/folder"], "/no/such/folder is no model's folder"),
        (H100, ["--mode", "staging"], "dev, prod or custom, not staging"),
        (H100, ["--gpus", "many"], "positive number, not many"),
        (H100, ["--modell", "x"], "no option --modell"),
        (H100, ["--model"], "--model needs a value"),
        (H100, ["--config", "/no/config.yaml"], "no configuration /no/config.yaml"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_changed(
    machine: Machine, unattended: list[str], gpus: str, options: list[str], says: str
) -> None:
    assert re.search(says, machine.deploy(*unattended, *options, gpus=gpus, code=1))
    assert machine.changes() == []


@pytest.mark.parametrize(
    ("scene", "says"),
    [
        ({"fails": ["info"]}, "docker does not answer.*docker: info went wrong"),
        ({"info": "28.2.2|/var/lib/docker|runc "}, "no NVIDIA runtime.*nvidia-container-toolkit"),
        ({"container": "running <no value>"}, "container ananke that this script did not start"),
    ],
)
def test_what_docker_lacks_is_told(machine: Machine, unattended: list[str], scene: dict, says: str) -> None:
    assert re.search(says, machine.deploy(*unattended, scene=scene, code=1))
    assert machine.changes() == []


def test_memory_that_cannot_be_told_is_said_and_no_obstacle(machine: Machine, unattended: list[str]) -> None:
    assert "so whether" in machine.deploy(*unattended, "--dry-run", gpus="0, [N/A], [N/A], 580.1, GPU-0, NVIDIA GB10")
    assert "cannot be told from its name" in machine.deploy(*unattended, "--dry-run", "--model", "me/mine")
    assert "share of 1, not 90" in machine.deploy(*unattended, code=1, ANANKE_GPU_MEMORY_UTILIZATION="90")


def test_what_the_containers_user_cannot_read_is_told(machine: Machine, unattended: list[str], tmp_path: Path) -> None:
    config, model = tmp_path / "config.yaml", tmp_path / "model"
    model.mkdir()
    for file in (config, model / "config.json", model / "model.safetensors"):
        file.write_text("")
    options = [*unattended, "--dry-run", "--config", str(config), "--model", str(model)]
    machine.deploy(*options)
    for closed, mode in ((config, 0o644), (model / "config.json", 0o644), (model, 0o755)):
        closed.chmod(0o700)
        assert f"10001, cannot read {closed}: let everybody read it" in machine.deploy(*options, code=1)
        closed.chmod(mode)


def test_missing_programs_disk_and_ports_are_told(machine: Machine, unattended: list[str]) -> None:
    assert "make room" in machine.deploy(*unattended, free_gib=30, code=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is taken" in machine.deploy(*unattended, "--grpc-port", port, code=1)
    assert "standard input is no terminal" in machine.deploy(code=1)
    machine.environment["PATH"] = f"{machine.folder}:{only_tools(machine.folder.parent)}"
    (machine.folder / "docker").unlink()
    assert "docker is missing" in machine.deploy(*unattended, code=1)
    assert machine.changes() == []


def only_tools(folder: Path) -> str:
    """A PATH without the machine's own docker."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "dirname", "tail", "sed"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    return str(tools)


@pytest.mark.parametrize(
    ("scene", "options", "says"),
    [
        ({"fails": ["build"]}, [], "image could not be built"),
        ({"fails": ["run"]}, [], "container could not be started"),
        ({"fails": ["login"]}, [], "nvcr.io refuses NGC_API_KEY"),
        ({"ready_after": 99, "state": "exited 0"}, [], "ended before it could generate(.|\n)*last words of the server"),
        ({"ready_after": 99, "state": "running 2"}, [], "ended before it could generate"),
        ({"ready_after": 999}, ["--timeout", "1"], "after 1 s the server cannot generate(.|\n)*last words"),
    ],
)
def test_what_goes_wrong_is_told(machine: Machine, unattended: list[str], scene: dict, options: list[str], says: str) -> None:
    said = machine.deploy(*unattended, *options, scene=scene, code=1, **SECRETS)
    assert re.search(says, said), said
    assert "ananke generate" not in said


# with somebody at the terminal


def test_it_asks_and_does_not_echo_secrets(machine: Machine, ports: list[str]) -> None:
    machine.prepare(H100, 500)
    terminal, said = Terminal([SCRIPT, *shlex.split(" ".join(ports))], machine.environment | {"SCENE": "{}"}), ""
    for question, answer in [
        ("Mode", "1"),
        ("Model", "9"),
        ("Model", "2"),
        ("NGC API key", SECRETS["NGC_API_KEY"]),
        ("Hugging Face token", SECRETS["HF_TOKEN"]),
        ("Go on?", "y"),
    ]:
        said += terminal.until(question)
        terminal.type(answer)
    said += terminal.until("docs/DEPLOYMENT.md")
    assert terminal.end() == 0
    assert machine.changes() == ["login", "build", "run"]
    assert "ANANKE_MODEL=Qwen/Qwen2.5-Coder-7B-Instruct" in machine.run_options()
    assert machine.calls("run")[0]["env"]["HF_TOKEN"] == SECRETS["HF_TOKEN"]
    assert "one of 1 to 5, please" in said
    assert not any(secret in said for secret in SECRETS.values())


def test_no_is_an_answer(machine: Machine, ports: list[str]) -> None:
    machine.prepare(H100, 500)
    command = [SCRIPT, "--mode", "prod", "--model", "Qwen/Qwen2.5-Coder-7B-Instruct", "--no-build", *shlex.split(" ".join(ports))]
    terminal = Terminal(command, machine.environment | {"SCENE": "{}", "HF_TOKEN": "x"})
    terminal.until("Go on?")
    terminal.type("")
    terminal.until("nothing was changed")
    assert terminal.end() == 1
    assert machine.changes() == []


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(command, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self._unread = ""

    def until(self, text: str, seconds: float = 30) -> str:
        """What is printed up to ``text`` and with it."""
        deadline = time.monotonic() + seconds
        while text not in self._unread:
            assert time.monotonic() < deadline, f"no {text!r} in {self._unread!r}"
            if select.select([self._master], [], [], 0.5)[0]:
                self._unread += os.read(self._master, 4096).decode()
        before, found, self._unread = self._unread.partition(text)
        return before + found

    def type(self, line: str) -> None:
        time.sleep(0.1)  # echo is switched off only once the question is out
        os.write(self._master, f"{line}\n".encode())

    def end(self) -> int:
        code = self._process.wait(30)
        os.close(self._master)
        return code
