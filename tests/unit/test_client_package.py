"""What the client brings along: an import that costs next to nothing, dependencies without torch and vLLM, names that resolve."""

import ast
import inspect
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ananke_client
from ananke_client.async_client import AsyncInferenceClient
from ananke_client.batch import Batch
from ananke_client.client import InferenceClient

FOLDER = Path(ananke_client.__file__).parents[1]
HEAVY = ("grpc", "httpx", "tritonclient", "numpy", "pydantic", "torch", "vllm", "ananke_server")


def in_a_process(script):
    command = [sys.executable, "-c", f"import sys, time; begun = time.perf_counter(); {script}"]
    return json.loads(subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True).stdout)


def test_importing_is_quick_and_loads_nothing_heavy():
    loaded = f"[m for m in {HEAVY} if m in sys.modules]"
    script = f"import ananke_client; seconds = time.perf_counter() - begun; import json; print(json.dumps([seconds, {loaded}]))"
    seconds, loaded = zip(*(in_a_process(script) for _ in range(5)), strict=True)
    assert min(seconds) < 0.5
    assert loaded == ([],) * 5


def test_types_load_no_transport():
    names = "GenerationConfig, ConstraintSpec, GenerationResult, RetryPolicy, BatchItem, TLSConfig"
    script = f"from ananke_client import {names}; print([int(m in sys.modules) for m in ('grpc', 'httpx', 'tritonclient', 'numpy')])"
    assert in_a_process(script) == [0, 0, 0, 0]


@pytest.mark.parametrize(("name", "without"), [("AnankeInferenceHTTPClient", "grpc"), ("AnankeInferenceClient", "httpx")])
def test_a_client_loads_its_own_transport_alone(name, without):
    assert in_a_process(f"from ananke_client import {name}; print(int({without!r} in sys.modules))") == 0


def closure(name, *extras):
    """A distribution and all that it needs with these extras, by the metadata of what is installed."""
    found, waiting = set(), [(canonicalize_name(name), frozenset(extras))]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in found:
            continue
        found.add((name, extras))
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return {name for name, _ in found}


def test_the_plain_dependencies_bring_neither_torch_nor_vllm():
    names = closure("ananke-triton")
    assert {"grpcio", "httpx", "numpy", "pydantic", "tritonclient"} <= names
    assert not {name for name in names if name.split("-")[0] in ("torch", "vllm", "transformers", "triton", "nvidia", "llguidance", "tqdm")}
    assert {"llguidance", "transformers"} <= closure("ananke-triton", "server")


def test_no_advice_names_a_package_that_is_on_no_index():
    advising = re.compile(r"ananke-triton\[|install '?ananke")
    sources = [path for folder in (FOLDER, FOLDER.parent / "server", FOLDER.parent / "scripts") for path in folder.rglob("*.py")]
    assert [path for path in sources if advising.search(path.read_text())] == []


def test_a_batch_without_its_bar_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[progress\]' in the project's folder"):
        Batch([], None, None, concurrency=1, progress=None, tqdm=True)


def test_every_public_name_resolves():
    assert [name for name in ananke_client.__all__ if not hasattr(ananke_client, name)] == []
    assert set(ananke_client.__all__) <= set(dir(ananke_client))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ananke_client.no_such_name


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(ananke_client.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module.rpartition(".")[2] for node in block.body for alias in node.names}
    assert seen == ananke_client._HOMES
    assert sorted(seen) == sorted(ananke_client.__all__)


def public(kind):
    return {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_synchronous_and_asynchronous_methods_have_one_signature():
    plain, asynchronous = public(InferenceClient), public(AsyncInferenceClient)
    assert plain.keys() == asynchronous.keys()
    for name, method in plain.items():
        expected, given = inspect.signature(method), inspect.signature(asynchronous[name])
        assert given.parameters == expected.parameters, name
        streams = name == "generate_stream"
        assert given.return_annotation == ("Async" if streams else "") + expected.return_annotation, name
        assert inspect.iscoroutinefunction(asynchronous[name]) is not streams, name


def test_all_four_are_made_alike():
    grpc, grpc_async, http, http_async = (
        inspect.signature(getattr(ananke_client, name)).parameters
        for name in (
            *("AnankeInferenceClient", "AsyncAnankeInferenceClient"),
            *("AnankeInferenceHTTPClient", "AsyncAnankeInferenceHTTPClient"),
        )
    )
    assert grpc == grpc_async
    assert dict(grpc) == {name: parameter for name, parameter in http.items() if name != "transport"}
    assert list(http) == list(http_async)
