"""config.yaml: layers and their order, every fault in one line, and what is made from the definitions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from write_config import CONFIG, DOCUMENT, document

from ananke_client.constraint import KINDS
from ananke_server.constraints.kinds import Kinds
from ananke_server.constraints.limits import Limits
from ananke_server.launch import DEFAULT_MODEL, PROJECT
from ananke_server.settings import ConfigError, Settings, load_settings
from ananke_server.settings.effective import Effective, effective
from ananke_server.settings.reference import config_text
from ananke_server.settings.sections import SECTIONS
from ananke_server.settings.sources import read_config

Load = Callable[..., Settings]
SECONDS = ("request_timeout", "idle_timeout", "start_timeout")
NAMES = [name for section in SECTIONS.values() for name in section.model_fields]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the settings of a file's text and of variables given without their prefix."""

    def made(text: str = "", **variables: str) -> Settings:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return load_settings({"ANANKE_CONFIG": str(file), **{f"ANANKE_{name}": value for name, value in variables.items()}})

    return made


class TestLayers:
    def test_the_environment_wins_over_the_file_over_the_preset_over_the_profile(self, load: Load) -> None:
        text = "preset: development\ngpu: {gpu_profile: a100-40gb}\n"
        assert load("gpu: {gpu_profile: a100-40gb}\n").max_num_seqs == 128
        assert load(text).max_num_seqs == 32
        assert load(text + "performance: {max_num_seqs: 27}\n").max_num_seqs == 27
        assert load(text + "performance: {max_num_seqs: 27}\n", MAX_NUM_SEQS="23").max_num_seqs == 23
        assert load().max_num_seqs == Settings(model="m").max_num_seqs == 256

    def test_a_preset_and_a_profile_can_come_from_the_environment(self, load: Load) -> None:
        settings = load(PRESET="production", GPU_PROFILE="a100-80gb")
        assert (settings.log_format, settings.provenance_log_fsync) == ("json", "always")
        assert (settings.gpu_memory_utilization, settings.max_model_len, settings.max_num_seqs) == (0.92, 16384, 256)

    @pytest.mark.parametrize("none", ["null", "~", "", "none", "'null'"])
    def test_a_file_sets_a_presets_value_back_to_none(self, load: Load, none: str) -> None:
        assert load("preset: production\n").idle_timeout == 60
        settings = load(f"preset: production\ncontainer: {{idle_timeout: {none}}}\nprovenance: {{provenance_log: {none}}}\n")
        assert (settings.idle_timeout, settings.provenance_log, settings.log_format) == (None, None, "json")

    @pytest.mark.parametrize("none", ["none", "null"])
    def test_a_variable_sets_what_is_weaker_back_to_none(self, load: Load, none: str) -> None:
        text = "preset: production\nperformance: {enforce_eager: true}\nsecurity: {signing_key_file: key.pem}\n"
        settings = load(text, IDLE_TIMEOUT=none, PROVENANCE_LOG=none, ENFORCE_EAGER=none, SIGNING_KEY_FILE=none)
        assert (settings.idle_timeout, settings.provenance_log) == (None, None)
        assert (settings.enforce_eager, settings.signing_key_file) == (None, None)
        assert load(text, PRESET=none).log_format == "text"
        assert load(text, IDLE_TIMEOUT="").idle_timeout == 60, "an empty variable is left out"

    def test_what_cannot_be_none_keeps_the_word_or_its_weaker_value(self, load: Load) -> None:
        assert load("gpu: {gpu_profile: a100-40gb}\nperformance: {max_num_seqs: null}\n").max_num_seqs == 128
        assert load(NAME="none").name == "none"
        with pytest.raises(ConfigError, match="ANANKE_MAX_PENDING=none: it should be a valid integer"):
            load(MAX_PENDING="none")

    def test_nested_keys_are_laid_over_each_other_one_by_one(self, load: Load) -> None:
        text = "constraints: {limits: {bytes: 1000, nesting: 9}, kinds: {regex: off}}\n"
        settings = load(text, LIMITS__BYTES="2000", KINDS__CHOICE="false")
        assert settings.limits == Limits(bytes=2000, nesting=9)
        assert settings.kinds == Kinds(regex=False, choice=False)

    def test_what_has_no_value_is_left_out(self, load: Load) -> None:
        text = "preset:\nservice:\nmodel:\n  dtype:\nconstraints:\n  limits:\n    bytes:\n"
        assert load(text, MAX_PENDING="").model_dump() == load().model_dump()

    def test_relative_paths_start_at_the_project(self, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        settings = load("model: {model: .ananke/models/SmolLM2-135M-Instruct}\nprovenance: {provenance_log: a/b.jsonl}\n")
        assert settings.model == str(DEFAULT_MODEL)
        assert settings.provenance_log == PROJECT / "a" / "b.jsonl"

    def test_models_that_may_be_served(self, load: Load) -> None:
        text = f"model: {{available_models: [owner/one, {DEFAULT_MODEL.relative_to(PROJECT)}]}}\n"
        assert load(text).model == load(text, MODEL=str(DEFAULT_MODEL)).model == str(DEFAULT_MODEL)
        assert load(text, MODEL="owner/one").model == "owner/one"
        with pytest.raises(ConfigError, match="no available model 'owner/won': did you mean 'owner/one'"):
            load(text, MODEL="owner/won")


@pytest.mark.parametrize(
    ("text", "variables", "line"),
    [
        ("modle: {}", {}, "FILE: there is no section 'modle': did you mean 'model'?"),
        ("zzz: {}", {}, "FILE: there is no section 'zzz': known are preset, service, model, .*"),
        ("model: {dtyp: x}", {}, "FILE: in model: there is no key 'dtyp': did you mean 'dtype'?"),
        ("model: {max_num_seqs: 3}", {}, "FILE: 'max_num_seqs' belongs in the section 'performance', not in 'model'"),
        ("max_num_seqs: 3", {}, "FILE: 'max_num_seqs' belongs in the section 'performance'"),
        ("model: 3", {}, "FILE: model must hold keys with values, not int"),
        ("- 3", {}, "FILE: the file must hold keys with values, not list"),
        ("constraints: {limits: 3}", {}, "FILE: constraints.limits must hold keys with values, not int"),
        ("model:\n  dtype: a\n  dtype: b", {}, "FILE:3:3: not YAML: the key 'dtype' is repeated"),
        ("a: b: c", {}, "FILE:1:5: not YAML: mapping values are not allowed here"),
        ("container: {max_pending: many}", {}, "FILE: container.max_pending=many: it should be a valid integer, .*"),
        ("container: {max_pending: 0}", {"MAX_PENDING": "-1"}, "ANANKE_MAX_PENDING=-1: it should be greater than 0"),
        ("", {"LIMITS__BITES": "5"}, "ANANKE_LIMITS: there is no limit 'bites': did you mean 'bytes'?"),
        ("constraints: {kinds: {regx: false}}", {}, "FILE: constraints.kinds: there is no kind 'regx': did you mean 'regex'?"),
        ("", {"KINDS__REGEX": "maybe"}, "ANANKE_KINDS__REGEX=maybe: it should be a valid boolean, unable to interpret input"),
        ("", {"ENGINE_ARGS": "{nope"}, "ANANKE_ENGINE_ARGS: must be JSON"),
        ("", {"ENGINE_ARGS": '{"logits_processors": []}'}, "ANANKE_ENGINE_ARGS: logits_processors would break masking and cannot be set"),
        ("performance: {max_num_seqs: true}", {}, "FILE: performance.max_num_seqs=True: it should be a valid integer, not a boolean"),
        ("performance: {max_num_seqs: '12'}", {}, "FILE: performance.max_num_seqs=12: it should be a valid integer, not a string"),
        ("performance: {max_num_seqs: 12.0}", {}, "FILE: performance.max_num_seqs=12.0: it should be a valid integer, not a number .*"),
        ("model: {max_model_len: [1]}", {}, "FILE: model.max_model_len: it should be a valid integer, not a list"),
        ("service: {http_port: '1'}", {}, "FILE: service.http_port=1: it should be a valid integer, not a string"),
        ("container: {idle_timeout: true}", {}, "FILE: container.idle_timeout=True: it should be a valid number, not a boolean"),
        ("logging: {log_content: 1}", {}, "FILE: logging.log_content=1: it should be true or false, not an integer"),
        ("performance: {enforce_eager: 'yes'}", {}, "FILE: performance.enforce_eager=yes: it should be true or false, not a string"),
        ("constraints: {limits: {bytes: true}}", {}, "FILE: constraints.limits.bytes=True: it should be a valid integer, not a boolean"),
        ("constraints: {kinds: {regex: 0}}", {}, "FILE: constraints.kinds.regex=0: it should be true or false, not an integer"),
        ("preset: prod", {}, "FILE: preset=prod: it should be 'development' or 'production'"),
        ("gpu: {gpu_profile: h100}", {}, "FILE: gpu.gpu_profile=h100: it should be 'a100-40gb' or 'a100-80gb'"),
        ("model: {enable_lora: true}", {}, "FILE: model.enable_lora=True: LoRA adapters are not served: .*"),
        ("", {"ENGINE_ARGS": '{"enable_lora": true}'}, "ANANKE_ENGINE_ARGS: LoRA adapters are not served: .*"),
        *((f"container: {{{name}: .inf}}", {}, f"FILE: container.{name}=inf: it should be a finite number") for name in SECONDS),
        *(("", {name.upper(): "nan"}, f"ANANKE_{name.upper()}=nan: it should be a finite number") for name in SECONDS),
        ("", {"GPU_MEMORY_UTILIZATION": "nan"}, "ANANKE_GPU_MEMORY_UTILIZATION=nan: it should be a finite number"),
        ("constraints: {limits: {compile_seconds: .inf}}", {}, "FILE: .*compile_seconds=inf: it should be a finite number"),
        ("", {"ENGINE_ARGS": '{"max_num_seqs": 4}'}, "ANANKE_ENGINE_ARGS: max_num_seqs cannot be set here: .*"),
        ("security: {signing_key: [top-secret]}", {}, "FILE: security.signing_key: it should be a valid string"),
    ],
)
def test_a_fault_is_one_line_that_says_where_and_what(
    load: Load, tmp_path: Path, text: str, variables: Mapping[str, str], line: str
) -> None:
    with pytest.raises(ConfigError) as fault:
        load(text, **variables)
    pattern = re.escape(line).replace(r"\.\*", ".*").replace("FILE", re.escape(str(tmp_path / "config.yaml")))
    assert re.fullmatch(pattern, str(fault.value)), str(fault.value)


@pytest.mark.parametrize(
    ("text", "variables", "line"),
    [
        ("", {"HTTP_PORT": "9000", "GRPC_PORT": "9000"}, "ANANKE_HTTP_PORT=9000, ANANKE_GRPC_PORT=9000: these are the same port: .*"),
        ("monitoring: {metrics_port: 8001}", {}, "grpc_port=8001, FILE: monitoring.metrics_port=8001: these are the same port: .*"),
        (
            "preset: development",
            {"MAX_NUM_SEQS": "3"},
            "preset development: container.concurrency=10, ANANKE_MAX_NUM_SEQS=3: more requests cannot be .* share a step: .*",
        ),
        ("container: {concurrency: 9, max_pending: 8}", {}, "FILE: .*concurrency=9, FILE: .*max_pending=8: .* than are admitted: .*"),
        ("logging: {log_content: true}", {"LOG_LEVEL": "ERROR"}, "FILE: .*log_content=True, ANANKE_LOG_LEVEL=ERROR: .* none would be: .*"),
        ("provenance: {provenance_log_content: true}", {}, "FILE: .*provenance_log_content=True, provenance_log: there is no log .*"),
        (
            "container: {idle_timeout: 60, sleep_level: 2}",
            {"LOAD_FORMAT": "dummy"},
            "FILE: .*sleep_level=2, ANANKE_LOAD_FORMAT=dummy: .* none to read: .*",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_told_with_their_places(
    load: Load, tmp_path: Path, text: str, variables: Mapping[str, str], line: str
) -> None:
    test_a_fault_is_one_line_that_says_where_and_what(load, tmp_path, text, variables, line)


def test_contradictions_are_none_once_either_side_gives_way(load: Load) -> None:
    assert load("preset: development", MAX_NUM_SEQS="3", CONCURRENCY="none").concurrency is None
    assert load("preset: development", MAX_NUM_SEQS="10").concurrency == 10
    assert load("logging: {log_content: true}", LOG_LEVEL="DEBUG").log_content is True
    assert load("provenance: {provenance_log_content: true}", PROVENANCE_LOG="x").provenance_log_content is True
    assert load("container: {sleep_level: 2}", LOAD_FORMAT="dummy").idle_timeout is None
    assert load("container: {idle_timeout: 60, sleep_level: 1}", LOAD_FORMAT="dummy").sleep_level == 1


def test_texts_of_the_environment_and_whole_numbers_for_fractions_are_taken(load: Load) -> None:
    settings = load("container: {idle_timeout: 60, start_timeout: 7}", MAX_NUM_SEQS="12", LOG_CONTENT="1", LIMITS__BYTES="9")
    assert (settings.idle_timeout, settings.start_timeout, settings.max_num_seqs, settings.log_content) == (60.0, 7.0, 12, True)
    assert settings.limits.bytes == 9


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_settings({"ANANKE_CONFIG": str(tmp_path / "none.yaml")})


class TestEffective:
    def test_each_value_has_its_origin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "c.yaml").write_text("preset: production\ncontainer: {max_pending: 5}\nconstraints: {limits: {bytes: 9, enum: 3}}\n")
        monkeypatch.setenv("ANANKE_CONFIG", str(tmp_path / "c.yaml"))
        monkeypatch.setenv("ANANKE_LIMITS__BYTES", "8")
        rows = {row.key: row for row in effective(load_settings())}
        file = str(tmp_path / "c.yaml")
        assert rows["max_pending"] == Effective("container", "max_pending", 5, file)
        assert rows["limits.bytes"] == Effective("constraints", "limits.bytes", 8, "ANANKE_LIMITS__BYTES")
        assert (rows["limits.enum"].origin, rows["limits.rules"].origin) == (file, "default")
        assert (rows["log_format"].origin, rows["preset"].origin) == ("preset production", file)
        monkeypatch.setenv("ANANKE_IDLE_TIMEOUT", "none")
        rows = {row.key: row for row in effective(load_settings())}
        assert rows["idle_timeout"] == Effective("container", "idle_timeout", None, "ANANKE_IDLE_TIMEOUT")
        assert {row.partition(".")[0] for row in rows} == {"preset", *NAMES}

    def test_make_config_shows_no_secret_and_warns_of_a_near_name(self) -> None:
        environment = os.environ | {"ANANKE_SIGNING_KEY": "top-secret", "ANANKE_MAX_NUM_SEQ": "3"}
        shown = subprocess.run(
            [sys.executable, PROJECT / "scripts" / "config.py"], env=environment, capture_output=True, text=True, check=True
        )
        assert re.search(r"signing_key +\*\*\*\* +ANANKE_SIGNING_KEY\n", shown.stdout)
        assert re.search(r"max_num_seqs +256 +default\n", shown.stdout)
        assert "top-secret" not in shown.stdout + shown.stderr
        assert shown.stderr == "config: ANANKE_MAX_NUM_SEQ is no setting: did you mean ANANKE_MAX_NUM_SEQS?\n"


def is_edited(file: Path) -> bool:
    """Whether a config.yaml is its owner's own by now: it is gone, sets something, cannot be read, or differs from the commit's."""
    try:
        if read_config(file):
            return True
    except ConfigError:
        return True
    if shutil.which("git") is None:
        return False
    status = ["git", "status", "--porcelain", "--untracked-files=no", "--", file.name]
    return bool(subprocess.run(status, cwd=file.parent, capture_output=True).stdout)  # nothing where there is no repository


class TestReference:
    def test_the_tables_are_as_made(self) -> None:
        assert DOCUMENT.read_text() == document(DOCUMENT.read_text()), "run scripts/write_config.py"

    def test_config_yaml_is_as_made_unless_somebody_has_edited_it(self) -> None:
        as_made = CONFIG.is_file() and CONFIG.read_text() == config_text()
        assert as_made or is_edited(CONFIG), "run scripts/write_config.py"

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("#max_num_seqs: 256", "max_num_seqs: 64"),
            ("#max_num_seqs: 256", "#max_num_seqs: 64"),
            ("#preset: null", "preset:"),
            ("#preset: null", "preset: ["),
            ("performance:", "a note of mine:"),
        ],
    )
    def test_an_edited_file_is_known_as_one(self, tmp_path: Path, old: str, new: str) -> None:
        file = tmp_path / "config.yaml"
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        file.write_text(config_text())
        git = ["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run([*git, "add", "config.yaml"], check=True)
        subprocess.run([*git, "commit", "-qm", "shipped"], check=True)
        assert not is_edited(file)
        file.write_text(config_text().replace(old, new))
        assert is_edited(file)
        file.unlink()
        assert is_edited(file)

    def test_a_file_that_sets_something_is_edited_even_where_it_is_committed_or_no_repository_tells(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text(config_text())
        assert not is_edited(file)
        file.write_text(config_text().replace("#max_num_seqs: 256", "max_num_seqs: 64"))
        assert is_edited(file)

    def test_as_made_it_sets_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "made.yaml").write_text(config_text())
        assert read_config(tmp_path / "made.yaml") == {}

    def test_its_keys_hold_the_defaults(self, tmp_path: Path) -> None:
        file = tmp_path / "all.yaml"
        file.write_text(re.sub(r"(?m)^( *)#(?! [^ ])", r"\1", config_text()))
        content = yaml.safe_load(file.read_text())
        assert content.keys() == {"preset", *SECTIONS}
        assert {section: list(content[section]) for section in SECTIONS} == {
            section: list(settings.model_fields) for section, settings in SECTIONS.items()
        }
        assert content["constraints"]["kinds"].keys() == set(KINDS)
        assert load_settings({"ANANKE_CONFIG": str(file)}).model_dump() == load_settings({"ANANKE_CONFIG": os.devnull}).model_dump()

    def test_every_key_is_described(self) -> None:
        for line, before in zip(config_text().splitlines()[1:], config_text().splitlines(), strict=False):
            if re.match(r" *# *[a-z_]+:( |$)", line) and not re.match(r" *# [^ ]", line):
                assert re.match(r" *# \S", before), f"{line.strip()} has no description"

    def test_no_name_is_in_two_sections(self) -> None:
        assert len(NAMES) == len(set(NAMES))

    def test_every_key_is_read_by_something(self) -> None:
        folders = [PROJECT / "server", PROJECT / "scripts"]
        code = "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py") if path.name != "sections.py")
        unread: list[Any] = [name for name in NAMES if not re.search(rf"(settings|self)\.{name}\b", code)]
        assert unread == ["enable_lora", "gpu_profile"], "the first can only be false, the second is read before there are settings"

    def test_kinds_are_the_contracts(self) -> None:
        assert tuple(Kinds.__dataclass_fields__) == KINDS
