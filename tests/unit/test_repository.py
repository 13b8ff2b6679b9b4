"""The model repository as a machine serves it: the tree's own where it fits, else links with other configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from ananke_server.launch import PROJECT, LaunchError, TritonServer
from ananke_server.repository import served_repository

TREE = PROJECT / "model_repository"


def test_as_it_lies_where_nothing_differs(tmp_path: Path) -> None:
    assert served_repository(TREE, tmp_path / "made", instances={"validate": 2}, cached=False) == TREE
    assert not (tmp_path / "made").exists()


def test_a_repository_without_validate_is_left_alone(tmp_path: Path) -> None:
    assert served_repository(tmp_path, tmp_path / "made", instances={"validate": 5}, cached=True) == tmp_path


def test_another_number_of_instances(tmp_path: Path) -> None:
    made = served_repository(TREE, tmp_path, instances={"validate": 7}, cached=False)
    text = (made / "validate" / "config.pbtxt").read_text()
    assert text == (TREE / "validate" / "config.pbtxt").read_text().replace("count: 2", "count: 7")
    assert (made / "validate" / "1" / "model.py").samefile(TREE / "validate" / "1" / "model.py")
    for model in ("generate", "guided_vllm"):
        assert (made / model).samefile(TREE / model)


def test_each_model_has_its_number_of_instances(tmp_path: Path) -> None:
    made = served_repository(TREE, tmp_path, instances={"validate": 2, "guided_relay": 3}, cached=False)
    assert "count: 3 kind: KIND_CPU" in (made / "guided_relay" / "config.pbtxt").read_text()
    assert (made / "validate").samefile(TREE / "validate")


def test_with_the_response_cache_no_response_can_lack_what_another_request_asks_for(tmp_path: Path) -> None:
    made = served_repository(TREE, tmp_path, instances={"validate": 2}, cached=True)
    validate, twin, ensemble = ((made / model / "config.pbtxt").read_text() for model in ("validate", "compile", "generate"))
    assert "response_cache { enable: true }" in validate
    assert validate.count("data_type") == 2, "one input, one output"
    assert "compiled" not in validate.partition("output [")[2]
    assert 'name: "compile"' in twin
    assert '"compiled"' in twin
    assert "response_cache" not in twin
    assert 'model_name: "compile"' in ensemble
    assert 'model_name: "validate"' not in ensemble
    assert (made / "compile" / "1" / "model.py").samefile(TREE / "validate" / "1" / "model.py")


def test_it_is_made_once(tmp_path: Path) -> None:
    first, second = (served_repository(TREE, tmp_path, instances={"validate": 3}, cached=True) for _ in range(2))
    assert first == second
    assert served_repository(TREE, tmp_path, instances={"validate": 4}, cached=True) != first
    assert len(list(tmp_path.iterdir())) == 2


def test_the_settings_decide(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("performance: {validate_instances: 12}\n")
    configured = {"ANANKE_CONFIG": str(tmp_path / "config.yaml"), "ANANKE_RELAY_INSTANCES": "1"}
    for environment, count in (({}, 12), ({"ANANKE_VALIDATE_INSTANCES": "3"}, 3)):
        server = TritonServer([TREE], environment=configured | environment)
        [served] = server.repositories()
        assert f"count: {count} " in (served / "validate" / "config.pbtxt").read_text()
        assert (served / "guided_relay").samefile(TREE / "guided_relay")
        assert "response_cache" not in (served / "validate" / "config.pbtxt").read_text()
    [cached] = TritonServer([TREE], environment={"ANANKE_RESPONSE_CACHE_MIB": "64"}).repositories()
    assert "response_cache" in (cached / "validate" / "config.pbtxt").read_text()


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
@pytest.mark.parametrize("variable", ["ANANKE_VALIDATE_INSTANCES", "ANANKE_RELAY_INSTANCES"])
def test_what_is_no_number_is_told(variable: str, value: str) -> None:
    with pytest.raises(LaunchError, match=f"{variable}={value}"):
        TritonServer([TREE], environment={variable: value}).repositories()
