"""Our own code runs no code of others: no pickle, no eval, no shell, no unsafe loader; and no secret lies among the tracked files."""

from __future__ import annotations

import ast
import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ananke_server.engine.sampling import SUPPORTED
from ananke_server.engine.start import engine_arguments
from ananke_server.launch import PROJECT
from ananke_server.settings import ConfigError, Settings, load_settings
from ananke_server.settings.sources import _UniqueKeys

SHIPPED = ("client", "server", "model_repository", "scripts", "examples")
UNSAFE_MODULES = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "jsonpickle", "pickletools"),
    "multiprocessing",
}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.spawnl", "os.spawnv", "pty.spawn", "tempfile.mktemp"}
LOADERS = ("SafeLoader", "CSafeLoader", "_UniqueKeys")

ALLOWED = {
    ("examples/regex_pattern.py", "exec"): "what the model wrote is run: that is what the example shows, in its reader's own process",
    ("server/ananke_server/engine/making.py", "multiprocessing"): "it asks which processes vLLM has begun, and sends none of them anything",
    ("scripts/stream_clients.py", "multiprocessing"): "a benchmark's clients, children of one program that tell it their times",
    ("scripts/validate_load.py", "multiprocessing"): "the same",
}
"""Uses that stand, each with the reason."""


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines and names of what could run code of others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, root) for alias in node.names if (root := alias.name.split(".")[0]) in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom) and (root := (node.module or "").split(".")[0]) in UNSAFE_MODULES:
            yield node.lineno, root
        elif isinstance(node, ast.Call):
            yield from unsafe_call(node)


def unsafe_call(node: ast.Call) -> Iterator[tuple[int, str]]:
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in UNSAFE_CALLS:
        yield node.lineno, name
    if given.get("shell", "False") != "False":
        yield node.lineno, "shell"
    if given.get("allow_pickle", "False") != "False":
        yield node.lineno, "allow_pickle"
    if given.get("trust_remote_code", "False") not in ("False", "settings.trust_remote_code"):
        yield node.lineno, "trust_remote_code"
    if name in ("torch.load", "load") and "weights_only" not in given and name.startswith("torch"):
        yield node.lineno, "torch.load"
    if name in ("yaml.load", "yaml.load_all"):
        loader = ast.unparse(node.args[1]) if len(node.args) > 1 else given.get("Loader", "")
        if not loader.endswith(LOADERS):
            yield node.lineno, name
    if name in ("yaml.unsafe_load", "yaml.full_load"):
        yield node.lineno, name


def shipped() -> list[Path]:
    return sorted(path for folder in SHIPPED for path in (PROJECT / folder).rglob("*.py"))


def test_nothing_that_is_shipped_unpickles_evaluates_or_calls_a_shell() -> None:
    assert len(shipped()) > 150
    found = Counter()
    for path in shipped():
        name = str(path.relative_to(PROJECT))
        for line, use in uses(ast.parse(path.read_text(), name)):
            assert (name, use) in ALLOWED, f"{name}:{line} uses {use}"
            found[name, use] += 1
    assert found.keys() == ALLOWED.keys(), "an allowance that nothing needs any more"


@pytest.mark.parametrize(
    ("code", "use"),
    [
        ("import pickle", "pickle"),
        ("from cloudpickle import loads", "cloudpickle"),
        ("import multiprocessing.connection", "multiprocessing"),
        ("eval(x)", "eval"),
        ("subprocess.run(x, shell=True)", "shell"),
        ("np.load(x, allow_pickle=True)", "allow_pickle"),
        ("torch.load(x)", "torch.load"),
        ("yaml.load(x)", "yaml.load"),
        ("yaml.load(x, Loader=yaml.Loader)", "yaml.load"),
        ("yaml.load(x, yaml.UnsafeLoader)", "yaml.load"),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", "trust_remote_code"),
        ("os.system(x)", "os.system"),
    ],
)
def test_each_unsafe_use_would_be_found(code: str, use: str) -> None:
    assert [name for _, name in uses(ast.parse(code))] == [use]


@pytest.mark.parametrize("code", ["yaml.load(x, Loader=yaml.SafeLoader)", "yaml.safe_load(x)", "re.compile(x)", "run(x, shell=False)"])
def test_safe_uses_are_not(code: str) -> None:
    assert not list(uses(ast.parse(code)))


def test_the_configuration_cannot_make_objects() -> None:
    assert issubclass(_UniqueKeys, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        yaml.load("a: !!python/object/apply:os.system [true]", _UniqueKeys)


def test_a_models_own_code_runs_only_by_an_explicit_setting() -> None:
    assert engine_arguments(Settings(model="m"), "v1")["trust_remote_code"] is False
    assert engine_arguments(Settings(model="m", trust_remote_code=True), "v1")["trust_remote_code"] is True
    with pytest.raises(ConfigError, match="trust_remote_code cannot be set here: use the setting of that name"):
        load_settings({"ANANKE_ENGINE_ARGS": '{"trust_remote_code": true}'})


@pytest.mark.parametrize("load_format", ["pt", "npcache"])
def test_weights_come_from_safetensors_and_never_from_pickles(load_format: str) -> None:
    assert engine_arguments(Settings(model="m"), "v1")["load_format"] == "safetensors"
    with pytest.raises(ConfigError, match="it reads pickles"):
        load_settings({"ANANKE_LOAD_FORMAT": load_format})
    with pytest.raises(ConfigError, match="load_format cannot be set here"):
        load_settings({"ANANKE_ENGINE_ARGS": f'{{"load_format": "{load_format}"}}'})


def test_the_engine_deserialises_nothing_of_a_clients() -> None:
    """vLLM would unpickle prompt embeddings, and what its processes send each other under that variable."""
    for name in ("enable_prompt_embeds", "enable_mm_embeds"):
        with pytest.raises(ConfigError, match=f"{name} would have a client's tensors deserialised"):
            load_settings({"ANANKE_ENGINE_ARGS": f'{{"{name}": true}}'})
    assert not {"prompt_embeds", "extra_args", "structured_outputs"} & SUPPORTED
    assert os.environ.get("VLLM_ALLOW_INSECURE_SERIALIZATION", "0") == "0"
    mentions = [path for path in shipped() if "VLLM_ALLOW_INSECURE_SERIALIZATION" in path.read_text()]
    assert mentions == [PROJECT / "server" / "ananke_server" / "launch.py"], "the launcher alone names it, to take it away"


SECRETS = {
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}"),
    "an API key of ours": re.compile(rb"ananke_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"),
    "a Hugging Face token": re.compile(rb"hf_[A-Za-z0-9]{30,}"),
    "a GitHub token": re.compile(rb"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,}"),
    "an AWS key": re.compile(rb"(?:AKIA|ASIA)[A-Z0-9]{16}"),
    "an NGC key": re.compile(rb"nvapi-[A-Za-z0-9_-]{40,}"),
    "a token of OpenAI's or Anthropic's": re.compile(rb"sk-[A-Za-z0-9_-]{32,}"),
}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    return [PROJECT / os.fsdecode(name) for name in listed.split(b"\0") if name]


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="no checkout: nothing is tracked here")
def test_no_secret_lies_among_the_tracked_files() -> None:
    files = [path for path in tracked() if path.is_file()]
    assert len(files) > 300
    found = [
        f"{path.relative_to(PROJECT)}: {what}"
        for path in files
        for what, pattern in SECRETS.items()
        if any(random_looking(match[0]) for match in pattern.finditer(path.read_bytes()))
    ]
    assert not found


def random_looking(text: bytes) -> bool:
    """More than 3 bits a character: a name written out has less."""
    counts = Counter(text)
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values()) > 3


def test_what_holds_keys_is_ignored_by_git_and_by_the_image() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", ".ananke/keys/signing.pem", ".ananke/keys/api_keys"], cwd=PROJECT, capture_output=True, text=True
    )
    if (PROJECT / ".git").exists():
        assert len(ignored.stdout.splitlines()) == 2
    lines = (PROJECT / ".dockerignore").read_text().split()
    assert lines[0] == "*" or "*" in lines
    assert not any(".ananke" in line for line in lines if line.startswith("!"))
