"""The Helm chart, rendered by Helm itself, and the KServe manifests: held against the published schemas, and against the server."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor
from kserve_types import misfits

from ananke_server import session
from ananke_server.launch import PROJECT
from ananke_server.settings import Settings, load_settings

CHART = PROJECT / "deploy" / "helm" / "ananke"
KSERVE = PROJECT / "deploy" / "kserve"
KUBERNETES = ("1.29", "1.33", "1.37")
OPERATORS = {"ScaledObject", "HTTPScaledObject", "PodMonitor"}
FULL = {
    "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "registry"}]},
    "model": {"tensorParallelSize": 4, "pipelineParallelSize": 2, "revision": "main"},
    "config": {"performance": {"max_num_seqs": 64}},
    "secrets": {"huggingFace": "hub", "signingKey": "signing", "apiKeys": "keys"},
    "tracing": {"endpoint": "http://collector.monitoring:4318"},
    "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"port": 3128, "protocol": "TCP"}]}]},
    "extraEnv": [{"name": "HF_ENDPOINT", "value": "https://hub.example"}],
    "cache": {"storageClass": "fast", "accessMode": "ReadWriteMany"},
    "metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "autoscaling": {"mode": "prometheus", "minReplicas": 0, "prometheus": {"wakeQuery": 'sum(rate(requests{host="ananke"}[2m]))'}},
    "podDisruptionBudget": {"enabled": True},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"gpu": "h100"},
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "serving",
    "runtimeClassName": "nvidia",
    "extraVolumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    "extraVolumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "full": FULL,
    "http": {
        "autoscaling": {"mode": "http", "minReplicas": 0, "http": {"hosts": ["ananke.example"]}},
        "cache": {"accessMode": "ReadWriteMany"},
    },
    "bare": {
        "cache": {"enabled": False},
        "preset": "",
        "tolerations": [],
        "metrics": {"annotations": False},
        "networkPolicy": {"clients": [], "metrics": [], "hub": False},
    },
}


def render(values: dict[str, Any], name: str = "ananke") -> dict[str, Any]:
    """The manifests by their kind; there is one of each."""
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name=name, namespace="serving")
    documents = [yaml.safe_load(text) for path, text in files.items() if path.endswith(".yaml")]
    return {document["kind"]: document for document in documents if document}


def notes(values: dict[str, Any]) -> str:
    """What Helm says after an installation."""
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="ananke", namespace="serving")
    return next(str(text) for path, text in files.items() if path.endswith("NOTES.txt"))


def container(manifests: dict[str, Any]) -> dict[str, Any]:
    return manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]


# schemas


def test_helm_finds_nothing() -> None:
    report = helm.lint(str(CHART), strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == report["errors"] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_takes_every_manifest(variant: str, version: str) -> None:
    manifests = render(VARIANTS[variant])
    assert {"Deployment", "Service", "NetworkPolicy", "Pod"} <= manifests.keys()
    for kind in manifests.keys() - OPERATORS:
        kubernetes_validate.validate(manifests[kind], version, strict=True)


def test_a_misspelt_key_is_seen_by_the_schema() -> None:
    manifests = render({})
    container(manifests)["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests["Deployment"], KUBERNETES[-1], strict=True)


@pytest.mark.parametrize(("kind", "model"), [("ScaledObject", ScaledObject), ("PodMonitor", PodMonitor)])
def test_the_operators_types_take_their_resources(kind: str, model: Any) -> None:
    document = render(FULL)[kind]
    assert model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True) == document, "nothing is unknown to it"


@pytest.mark.parametrize(
    ("file", "type_name"),
    [("serving-runtime.yaml", "V1alpha1ServingRuntime"), ("inference-service.yaml", "V1beta1InferenceService")],
)
def test_kserve_knows_every_key(file: str, type_name: str) -> None:
    document = yaml.safe_load((KSERVE / file).read_text())
    assert misfits(document, type_name) == []
    spoilt = document | {"spec": document["spec"] | {"predictors": {}}}
    assert misfits(spoilt, type_name) == [f"/spec: {type_name}Spec has no predictors"]


def runtime_of_kserve(*, keys: bool = False) -> dict[str, Any]:
    """The serving runtime; with the lines for API keys, if asked for, that it has as comments."""
    text = (KSERVE / "serving-runtime.yaml").read_text()
    document: dict[str, Any] = yaml.safe_load(re.sub(r"^( *)# (?=- \{)", r"\1", text, flags=re.MULTILINE) if keys else text)
    return document


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_pod_that_kserve_makes(version: str, keys: bool) -> None:
    runtime, service = runtime_of_kserve(keys=keys), yaml.safe_load((KSERVE / "inference-service.yaml").read_text())
    spec = {
        **{key: runtime["spec"][key] for key in ("containers", "volumes")},
        "tolerations": service["spec"]["predictor"]["tolerations"],
    }
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ananke"}, "spec": spec}, version, strict=True)
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    assert misfits(runtime, "V1alpha1ServingRuntime") == []


def test_kserve_asks_for_keys_as_the_chart_does_once_its_lines_are_uncommented() -> None:
    runtime, chart = runtime_of_kserve(keys=True)["spec"], render(FULL)
    made, charts = runtime["containers"][0], container(chart)
    variables = [variable for variable in charts["env"] if "API_KEY" in variable["name"]]
    assert len(variables) == 2
    assert all(variable in made["env"] for variable in variables)
    (mount,) = [mount for mount in charts["volumeMounts"] if mount["name"] == "api-keys"]
    assert mount in made["volumeMounts"]
    assert {"name": "api-keys", "secret": {"secretName": "ananke-keys", "defaultMode": 0o444}} in runtime["volumes"]
    assert "API_KEY" not in str(runtime_of_kserve())


def test_kserve_publishes_nothing_beyond_the_cluster_and_logs_nothing_that_would_be_lost() -> None:
    service = yaml.safe_load((KSERVE / "inference-service.yaml").read_text())
    assert service["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    variables = {variable["name"]: variable["value"] for variable in runtime_of_kserve()["spec"]["containers"][0]["env"]}
    settings = load_settings(variables | {"ANANKE_CONFIG": os.devnull})
    assert (settings.preset, settings.provenance_log) == ("production", None)


# values


def test_the_schema_has_the_keys_of_the_values_and_no_others() -> None:
    def compare(schema: dict[str, Any], value: Any, place: str) -> None:
        if "properties" in schema:
            assert schema["properties"].keys() - {"global"} == value.keys(), place
            assert schema["additionalProperties"] is False
            for key, item in value.items():
                compare(schema["properties"][key], item, f"{place}/{key}")

    compare(json.loads((CHART / "values.schema.json").read_text()), yaml.safe_load((CHART / "values.yaml").read_text()), "")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"repliccas": 2}, "repliccas"),
        ({"model": {"tensorParallelSize": 0}}, "tensorParallelSize"),
        ({"model": {"pipelineParallelSize": 0}}, "pipelineParallelSize"),
        ({"resources": {"memory": "much"}}, "memory"),
        ({"shutdown": {"graceSeconds": 10}}, "graceSeconds"),
        ({"tracing": {"endpoint": "collector:4318"}}, "endpoint"),
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any], says: str) -> None:
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmValuesError, match=says):
        chart.validate_schema(values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mode": "prometheus", "minReplicas": 0}, "wakeQuery"),
        ({"mode": "http"}, "autoscaling.http.hosts"),
    ],
)
def test_scaling_that_could_never_wake_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(helm.HelmRenderError, match=says):
        render({"autoscaling": values})


def test_scaling_over_http_and_tls_exclude_each_other() -> None:
    with pytest.raises(helm.HelmRenderError, match=r"autoscaling\.mode is http.*secrets\.tls"):
        render(VARIANTS["http"] | {"secrets": {"tls": "certificate"}})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"replicas": 3}, "replicas is 3, but a second .* ReadWriteOnce"),
        ({"autoscaling": {"mode": "prometheus"}}, "autoscaling.maxReplicas is 4"),
        ({"replicas": 2, "cache": {"accessMode": "ReadWriteOncePod"}}, "ReadWriteOncePod"),
    ],
)
def test_a_second_replica_that_would_hang_for_its_volume_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(helm.HelmRenderError, match=says):
        render(values)
    cache = values.get("cache", {})
    for cure in ({"accessMode": "ReadWriteMany"}, {"enabled": False}, {"existingClaim": "mine"}):
        render(values | {"cache": cache | cure})
    one = {"maxReplicas": 1} if "autoscaling" in values else {}
    render(values | {"replicas": 1, "autoscaling": values.get("autoscaling", {}) | one})


def variables(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "value": "1"} for name in names]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"config": {"model": {"model": "me/mine"}}}, "config.model.model sets ANANKE_MODEL.*give the value model.name in its place"),
        ({"config": {"gpu": {"tensor_parallel_size": 2}}}, "model.tensorParallelSize"),
        ({"config": {"gpu": {"pipeline_parallel_size": 2}}}, "model.pipelineParallelSize"),
        ({"config": {"preset": "development"}}, "config.preset sets ANANKE_PRESET.*the value preset"),
        ({"config": {"container": {"start_timeout": 9}}}, "probes.startupSeconds"),
        ({"config": {"container": {"drain_timeout": 9}}}, "shutdown.drainSeconds"),
        ({"config": {"service": {"http_port": 9000}}}, "config.service.http_port.*leave it out"),
        ({"config": {"service": {"host": "::"}}}, "config.service.host.*leave it out"),
        ({"config": {"service": {"http_host": "127.0.0.1"}}}, "config.service.http_host.*leave it out"),
        ({"config": {"monitoring": {"metrics_host": "127.0.0.1"}}}, "config.monitoring.metrics_host.*leave it out"),
        ({"extraEnv": variables("ANANKE_METRICS_HOST")}, "extraEnv sets ANANKE_METRICS_HOST.*leave it out"),
        ({"config": {"security": {"signing_key": "PRIVATE"}}}, "private key into a ConfigMap.*secrets.signingKey"),
        ({"config": {"security": {"management_key": "x"}}}, "would put a secret into a ConfigMap"),
        ({"config": {"security": {"tls_key_file": "/x"}}}, "ANANKE_TLS_KEY_FILE.*secrets.tls"),
        ({"extraEnv": variables("ANANKE_API_KEY_FILE")}, "secrets.apiKeys"),
        ({"config": {"provenance": {"digest_cache": "/x"}}}, "would win: give ANANKE_DIGEST_CACHE in extraEnv"),
        ({"extraEnv": variables("ANANKE_MODEL")}, "extraEnv sets ANANKE_MODEL.*model.name"),
        ({"extraEnv": variables("OTEL_EXPORTER_OTLP_ENDPOINT")}, "the value tracing.endpoint in its place"),
        ({"config": {"monitoring": {"otlp_endpoint": "http://c"}}}, "config.monitoring.otlp_endpoint sets .*the value tracing.endpoint"),
        ({"extraEnv": variables("ANANKE_GRPC_PORT")}, "extraEnv sets ANANKE_GRPC_PORT.*leave it out"),
        (
            {"extraEnv": variables("ANANKE_MAX_NUM_SEQS"), "config": {"performance": {"max_num_seqs": 5}}},
            "config.performance.max_num_seqs and ANANKE_MAX_NUM_SEQS of extraEnv are the same setting.*give one",
        ),
        (
            {"extraEnv": variables("ANANKE_LIMITS__BYTES"), "config": {"constraints": {"limits": {"bytes": 5}}}},
            "config.constraints.limits.bytes and ANANKE_LIMITS__BYTES",
        ),
    ],
)
def test_what_is_given_twice_is_refused_and_not_silently_overridden(values: dict[str, Any], says: str) -> None:
    with pytest.raises(helm.HelmRenderError, match=says):
        render(values)


def test_what_is_given_once_is_taken_wherever_it_is(tmp_path: Path) -> None:
    values = {
        "extraEnv": [{"name": "ANANKE_LIMITS__BYTES", "value": "9"}, {"name": "ANANKE_SANDBOX_WORKERS", "value": "3"}],
        "config": {"constraints": {"limits": {"nesting": 5}}, "performance": {"mask_processes": 2}, "container": {"idle_timeout": "none"}},
    }
    settings = settings_of(render(values), tmp_path)
    assert (settings.limits.bytes, settings.limits.nesting) == (9, 5)
    assert (settings.mask_processes, settings.sandbox_workers, settings.validate_instances, settings.relay_instances) == (2, 3, 8, 4)
    assert settings.idle_timeout is None, "of preset production it would be 60"


# what is promised


def test_a_pod_is_ready_once_it_has_generated_and_while_its_engine_is_well() -> None:
    probes = container(render({}))
    assert probes["startupProbe"]["exec"]["command"] == ["ananke", "health", "--http", "--generate"]
    for name in ("readinessProbe", "livenessProbe"):
        assert probes[name]["exec"]["command"] == ["ananke", "health", "--http"], "a generation would wake an engine that sleeps"

    def seconds(probe: dict[str, Any]) -> int:
        return probe["periodSeconds"] * probe["failureThreshold"]

    assert seconds(probes["startupProbe"]) == 1800
    assert seconds(probes["livenessProbe"]) == 600, "an engine that died is started again within the pod"
    assert seconds(probes["readinessProbe"]) <= 30


@pytest.mark.parametrize(("before", "drain"), [(0, 0), (5, 120), (30, 600)])
def test_a_pod_is_killed_only_after_the_server_has_drained(before: int, drain: int) -> None:
    seconds = {"preStopSeconds": before, "drainSeconds": drain, "graceSeconds": 40}
    spec = render({"shutdown": seconds})["Deployment"]["spec"]["template"]["spec"]
    stop_grace = 30.0  # of TritonServer.stop
    assert spec["terminationGracePeriodSeconds"] >= before + drain + stop_grace + session.STRAGGLERS_SECONDS
    assert {"name": "ANANKE_DRAIN_TIMEOUT", "value": str(drain)} in spec["containers"][0]["env"]
    assert spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(before)]


def test_a_replica_asks_for_as_many_gpus_as_share_the_model() -> None:
    made = container(render(FULL))
    assert made["resources"]["limits"]["nvidia.com/gpu"] == made["resources"]["requests"]["nvidia.com/gpu"] == 8
    assert {"name": "ANANKE_TENSOR_PARALLEL_SIZE", "value": "4"} in made["env"]


def test_secrets_are_named_and_never_held() -> None:
    manifests = render(FULL)
    assert "Secret" not in manifests
    token = next(variable for variable in container(manifests)["env"] if variable["name"] == "HF_TOKEN")
    assert token == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    named = {volume.get("secret", {}).get("secretName") for volume in pod(manifests)["volumes"]}
    assert {"signing", "keys"} <= named


def test_with_api_keys_the_pod_asks_itself_with_one_that_changes_as_the_file_of_hashes_does() -> None:
    manifests = render(FULL)
    made = {variable["name"]: variable for variable in container(manifests)["env"]}
    assert made["ANANKE_API_KEY_FILE"]["value"] == "/run/secrets/ananke-keys/api_keys"
    assert made["ANANKE_API_KEY_PATH"]["value"] == "/run/secrets/ananke-keys/probe"
    assert "ANANKE_API_KEY" not in made, "a container's environment stays as it began"
    (mount,) = [mount for mount in container(manifests)["volumeMounts"] if mount["name"] == "api-keys"]
    assert mount == {"name": "api-keys", "mountPath": "/run/secrets/ananke-keys", "readOnly": True}, "a subPath would stay as it began too"
    (keys,) = [volume["secret"] for volume in pod(manifests)["volumes"] if volume["name"] == "api-keys"]
    assert [item["path"] for item in keys["items"]] == ["api_keys", "probe"]
    assert "API_KEY" not in str(container(render({}))["env"])
    tested = render({"secrets": {"apiKeys": "keys"}})["Pod"]["spec"]["containers"][0]
    assert tested["env"] == [{"name": "ANANKE_API_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "probe"}}}]


def test_with_a_certificate_grpc_is_encrypted_and_nothing_outside_calls_http() -> None:
    manifests = render({"secrets": {"tls": "certificate"}})
    made = {variable["name"]: variable.get("value") for variable in container(manifests)["env"]}
    assert made["ANANKE_TLS_CERTIFICATE_FILE"] == "/run/secrets/ananke-tls/tls.crt"
    assert made["ANANKE_TLS_KEY_FILE"] == "/run/secrets/ananke-tls/tls.key"
    (port,) = manifests["Service"]["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (8001, "https")
    assert [port["name"] for port in container(manifests)["ports"]] == ["grpc", "metrics"]
    assert "http" not in {port["port"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert "Pod" not in manifests
    said = notes({"secrets": {"tls": "certificate"}})
    assert "8001" in said
    assert not re.search("8000|http:|helm .* test", said)
    assert "http://ananke.serving:8000" in notes({})
    for kind in manifests:
        kubernetes_validate.validate(manifests[kind], KUBERNETES[-1], strict=True)


def pod(manifests: dict[str, Any]) -> dict[str, Any]:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_runs_as_root_or_may_become_it(variant: str) -> None:
    manifests = render(VARIANTS[variant])
    for spec in (pod(manifests), manifests["Pod"]["spec"]):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        for each in spec["containers"]:
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_metrics_are_for_monitoring_alone_and_a_policy_without_peers_lets_nobody_in() -> None:
    manifests = render({})
    assert [port["port"] for port in manifests["Service"]["spec"]["ports"]] == [8000, 8001]
    by_port = {port["port"]: rule["from"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert by_port["http"] == by_port["grpc"] == [{"podSelector": {}}]
    assert by_port["metrics"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    closed = render(VARIANTS["bare"])["NetworkPolicy"]["spec"]
    assert closed["ingress"] == []
    assert {port["port"] for rule in closed["egress"] for port in rule["ports"]} == {53}
    waking = render(VARIANTS["http"])["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}} in waking


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.monitoring:4317", 4317),
        ("https://traces.example/otlp", 443),
        ("http://collector", 80),
        ("http://[2001:db8::1]:7", 7),
    ],
)
def test_traces_are_let_out_to_where_they_are_sent(endpoint: str, port: int) -> None:
    values = {"tracing": {"endpoint": endpoint}, "networkPolicy": {"hub": False}}
    manifests = render(values)
    assert {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint} in container(manifests)["env"]
    assert {each["port"] for rule in manifests["NetworkPolicy"]["spec"]["egress"] for each in rule["ports"]} == {53, port}


def test_further_ways_out_are_let_through() -> None:
    assert FULL["networkPolicy"]["egress"][0] in render(FULL)["NetworkPolicy"]["spec"]["egress"]


def test_kserve_probes_as_the_chart_does_within_the_deadline() -> None:
    runtime, service = (yaml.safe_load((KSERVE / f"{name}.yaml").read_text()) for name in ("serving-runtime", "inference-service"))
    probes, charts = runtime["spec"]["containers"][0], container(render({}))
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert probes[name]["exec"] == charts[name]["exec"]
        assert "initialDelaySeconds" not in probes[name]
    assert probes["livenessProbe"] == charts["livenessProbe"]
    deadline = int(service["metadata"]["annotations"]["serving.knative.dev/progress-deadline"].removesuffix("s"))
    assert probes["startupProbe"]["periodSeconds"] * probes["startupProbe"]["failureThreshold"] < deadline


def test_scaling_leaves_the_number_of_replicas_alone() -> None:
    assert render({})["Deployment"]["spec"]["replicas"] == 1
    for variant in ("full", "http"):
        assert "replicas" not in render(VARIANTS[variant])["Deployment"]["spec"]


def test_two_releases_in_one_namespace_share_nothing() -> None:
    one, other = render(FULL, "ananke"), render(FULL, "second")
    assert all(one[kind]["metadata"]["name"] != other[kind]["metadata"]["name"] for kind in one)
    assert one["Service"]["spec"]["selector"] != other["Service"]["spec"]["selector"]


def test_the_pod_monitors_job_is_the_one_that_the_alerts_know() -> None:
    manifests = render(FULL, "second")
    job = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"][manifests["PodMonitor"]["spec"]["jobLabel"]]
    assert f'up{{job="{job}"}} == 0' in (PROJECT / "monitoring" / "alerts.yaml").read_text()


# agreement with the server


def ours(manifests: dict[str, Any]) -> dict[str, str]:
    """The variables of the server's settings."""
    written = [variable for variable in container(manifests)["env"] if "value" in variable]
    return {variable["name"]: variable["value"] for variable in written if variable["name"].startswith("ANANKE_")}


def settings_of(manifests: dict[str, Any], folder: Path) -> Settings:
    (folder / "config.yaml").write_text(manifests["ConfigMap"]["data"]["config.yaml"])
    return load_settings(ours(manifests) | {"ANANKE_CONFIG": str(folder / "config.yaml")})


def test_the_server_takes_the_settings_that_it_is_given(tmp_path: Path) -> None:
    manifests = render(FULL)
    given, settings = ours(manifests), settings_of(manifests, tmp_path)
    assert (settings.tensor_parallel_size, settings.pipeline_parallel_size) == (4, 2)
    assert (settings.max_num_seqs, settings.mask_processes) == (64, 12)
    assert settings.log_format == "json", "of preset production"
    assert given.keys() - {"ANANKE_CONFIG", "ANANKE_API_KEY_PATH"} <= {f"ANANKE_{name.upper()}" for name in Settings.model_fields}


def test_replicas_scale_by_a_metric_that_is_exported() -> None:
    queries = [trigger["metadata"]["query"] for trigger in render(FULL)["ScaledObject"]["spec"]["triggers"]]
    metrics = (PROJECT / "server" / "ananke_server" / "triton" / "guided_metrics.py").read_text()
    names = set(re.findall(r"ananke_\w+", " ".join(queries)))
    assert names
    assert all(f'"{name}"' in metrics for name in names)


def test_the_documented_installations_render() -> None:
    text = (PROJECT / "docs" / "DEPLOYMENT.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^helm .* install .*$", text, re.MULTILINE)]
    assert len(commands) == 2
    for words in commands:
        assert "deploy/helm/ananke" in words
        render(helm.parse_set_string(",".join(after for before, after in itertools.pairwise(words) if before == "--set")))


def test_chart_script_and_image_agree() -> None:
    dockerfile = PROJECT / "Dockerfile.triton"
    if not dockerfile.exists():
        pytest.skip("this checkout has no Dockerfile.triton")
    image, script = dockerfile.read_text(), (PROJECT / "scripts" / "deploy.sh").read_text()
    assert f"USER {pod(render({}))['securityContext']['runAsUser']}" in image
    for mount in container(render({}))["volumeMounts"][:3]:
        assert mount["mountPath"] in image
        assert f":{mount['mountPath']}\"" in script
    assert all(str(port["containerPort"]) in image for port in container(render({}))["ports"])
