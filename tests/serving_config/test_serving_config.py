"""Every file of serving_config/ parses with the real protos or schema, and the files agree."""

from __future__ import annotations

import argparse
import http.server
import pathlib
import re
import subprocess
import threading
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from psad_tf.cli import serve
from psad_tf.errors import InputError
from psad_tf.serving.server import settings
from psad_tf.serving.server.config_protos import BatchingParameters, MonitoringConfig, SSLConfig

FOLDER = pathlib.Path(__file__).parents[2] / "serving_config"


def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "docker-compose.yml").read_text())["services"]["psad"]


def kubernetes_objects() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}


def container() -> dict[str, Any]:
    (only,) = kubernetes_objects()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def flags(arguments: list[str]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


def test_no_file_is_left_unread() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        "models.config",
        "batching_parameters.txt",
        "monitoring.config",
        "ssl.config.example",
        "docker-compose.yml",
        "kubernetes.yaml",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models.config", model_server_config_pb2.ModelServerConfig),
        ("batching_parameters.txt", BatchingParameters),
        ("monitoring.config", MonitoringConfig),
        ("ssl.config.example", SSLConfig),
    ],
)
def test_text_files_parse_with_the_protos(name: str, message: Any) -> None:
    assert text_format.Parse((FOLDER / name).read_text(), message()).ByteSize() > 0


def test_models_config_labels_two_of_the_versions_that_it_loads() -> None:
    (model,) = settings.read_model_config(FOLDER / "models.config").model_config_list.config
    loaded = set(model.model_version_policy.specific.versions)
    assert model.name == "psad" and set(model.version_labels) == {"stable", "canary"}
    assert set(model.version_labels.values()) == loaded and len(loaded) == 2


def test_the_embedded_server_reads_the_same_values() -> None:
    batching = settings.read_batching(FOLDER / "batching_parameters.txt")
    assert batching == settings.Batching(32, 1000, 64, 2)
    assert settings.read_ssl(FOLDER / "ssl.config.example").client_verify


def test_the_embedded_server_serves_models_config_by_label(
    tmp_path: pathlib.Path, models: pathlib.Path
) -> None:
    from psad_tf.serving.server import EmbeddedServer
    from tests.psad_tf.serving.tiny_models import scale_request

    text = (FOLDER / "models.config").read_text().replace("/models/psad", str(models))
    (tmp_path / "models.config").write_text(text)
    quiet = settings.ServerSettings(file_system_poll_wait_seconds=0)
    with EmbeddedServer(tmp_path / "models.config", quiet) as server:
        for label, version in (("stable", 1), ("canary", 2)):
            request = scale_request(model="psad")
            request.model_spec.version_label = label
            assert server.service.predict(request).model_spec.version.value == version


# `psad serve` has no REST interface and no metrics page on its port, and runs in the caller's thread anyway.
_OF_TENSORFLOW_SERVING_ALONE = ("rest_api_port", "monitoring_config_file", "tensorflow_inter_op_parallelism")


@pytest.mark.parametrize(
    "arguments", [compose()["command"], container()["args"]], ids=["compose", "kubernetes"]
)
def test_flags_are_those_of_tensorflow_model_server_and_of_psad_serve(arguments: list[str]) -> None:
    given = flags(arguments)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    serve.add_arguments(parser)
    shared = {name: value for name, value in given.items() if name not in _OF_TENSORFLOW_SERVING_ALONE}
    read = vars(parser.parse_args([f"--{name}={value}" for name, value in shared.items()]))
    assert read["enable_batching"] is True and read["port"] == 8500
    for name, value in given.items():
        if name.endswith("_file"):
            assert value.startswith("/config/") and (FOLDER / pathlib.Path(value).name).is_file()


@pytest.mark.parametrize(
    "flag",
    [
        # models.config has labels: without the flag TensorFlow Serving does not start on it.
        "--allow_version_labels_for_unavailable_models=true",
        "--tensorflow_inter_op_parallelism=-1",  # handing over costs more than it gains: docs/serving.md
    ],
)
def test_every_way_to_start_has_the_flag(flag: str) -> None:
    dockerfile = (FOLDER.parent / "docker" / "serving.Dockerfile").read_text()
    started = [dockerfile, *map(" ".join, (compose()["command"], container()["args"]))]
    assert all(flag in each for each in started)


def test_every_way_to_start_leaves_onednn_out() -> None:
    """It makes the graph slower at every size measured: docs/serving.md."""
    name = "TF_ENABLE_ONEDNN_OPTS"
    dockerfile = (FOLDER.parent / "docker" / "serving.Dockerfile").read_text()
    assert f"ENV {name}=0" in dockerfile
    assert compose()["environment"][name] == "0" and {"name": name, "value": "0"} in container()["env"]


def test_compose_and_kubernetes_run_the_same_server() -> None:
    assert compose()["command"] == container()["args"]
    assert compose()["image"] == container()["image"] == "tensorflow/serving:2.15.1"


@pytest.mark.slow
def test_compose_follows_the_schema_of_a_service() -> None:
    import jsonschema

    text = {"type": "string"}
    seconds = {"type": "string", "pattern": r"^\d+s$"}
    texts = {"type": "array", "items": text}
    service = {
        "type": "object",
        "additionalProperties": False,
        "required": ["image", "healthcheck"],
        "properties": {
            "image": text,
            "entrypoint": texts,
            "command": texts,
            "environment": {"type": "object", "additionalProperties": text},
            "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}},
            "volumes": {"type": "array", "items": {"type": "string", "pattern": ":ro$"}},
            "healthcheck": {
                "type": "object",
                "additionalProperties": False,
                "required": ["test"],
                "properties": {
                    "test": texts,
                    "retries": {"type": "integer"},
                    "interval": seconds,
                    "timeout": seconds,
                    "start_period": seconds,
                },
            },
            "stop_grace_period": text,
            "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
            "read_only": {"type": "boolean"},
            "tmpfs": texts,
            "cap_drop": texts,
            "security_opt": texts,
            "mem_limit": text,
            "cpus": {"type": "number"},
        },
    }
    jsonschema.validate(compose(), service)


@pytest.mark.parametrize("kind", ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"])
def test_kubernetes_objects_have_only_fields_of_their_schema(kind: str) -> None:
    client = pytest.importorskip("kubernetes.client")
    types = {
        "Deployment": "V1Deployment",
        "Service": "V1Service",
        "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
        "PodDisruptionBudget": "V1PodDisruptionBudget",
    }
    check_fields(kubernetes_objects()[kind], types[kind], client, kind)


def check_fields(value: Any, type_name: str, client: Any, where: str) -> None:
    """Walks an object along the API's own types; raises at a field that they do not have."""
    if value is None:
        return
    many = re.fullmatch(r"list\[(.+)\]", type_name)
    if many:
        for index, each in enumerate(value):
            check_fields(each, many[1], client, f"{where}[{index}]")
        return
    mapping = re.fullmatch(r"dict\(str, (.+)\)", type_name)
    if mapping:
        for key, each in value.items():
            check_fields(each, mapping[1], client, f"{where}.{key}")
        return
    model = getattr(client, type_name, None)
    if model is None:
        return
    names = {wire: python for python, wire in model.attribute_map.items()}
    for key, each in value.items():
        assert key in names, f"{where}: unknown field {key!r}"
        check_fields(each, model.openapi_types[names[key]], client, f"{where}.{key}")
    model(
        **{names[key]: each for key, each in value.items()}, local_vars_configuration=client.Configuration()
    )


def test_kubernetes_objects_name_each_other() -> None:
    objects = kubernetes_objects()
    deployment = objects["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert objects["Service"]["spec"]["selector"].items() <= labels.items()
    assert (
        objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    )
    volumes = {each["name"] for each in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {each["name"] for each in container()["volumeMounts"]} == volumes
    ports = {each["name"] for each in container()["ports"]}
    assert {each["targetPort"] for each in objects["Service"]["spec"]["ports"]} <= ports


class _Status(http.server.BaseHTTPRequestHandler):
    """TensorFlow Serving's REST status, as far as the probes ask for it."""

    def do_GET(self) -> None:
        state = {"/v1/models/psad/labels/stable": "AVAILABLE"}.get(self.path, "LOADING")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f'{{"model_version_status": [{{"version": "1", "state": "{state}"}}]}}'.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.mark.parametrize(
    "probe", [compose()["healthcheck"]["test"][3], container()["readinessProbe"]["exec"]["command"][2]]
)
def test_the_probe_passes_on_an_available_label_and_fails_on_none(probe: str) -> None:
    """The probe's own shell line."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Status) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = probe.replace("/127.0.0.1/8501", f"/127.0.0.1/{server.server_port}")
        for name, passes in (("psad", True), ("missing", False)):
            line = here.replace("/v1/models/psad", f"/v1/models/{name}")
            assert (subprocess.run(["bash", "-c", line], timeout=30).returncode == 0) is passes
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1"),
        ("batch_timeout_micros { value: -1 }", "must not be negative"),
        (
            "allowed_batch_sizes: 4 allowed_batch_sizes: 2",
            "allowed_batch_sizes: the embedded server does without",
        ),
        ("pad_variable_length_inputs: true", "pad_variable_length_inputs: the embedded server does without"),
        ("enable_large_batch_splitting { value: true }", "embedded server does without"),
        ("max_batch_sise { value: 4 }", "no field named"),
    ],
)
def test_a_wrong_batching_file_is_named(tmp_path: pathlib.Path, text: str, message: str) -> None:
    (tmp_path / "batching.txt").write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        settings.read_batching(tmp_path / "batching.txt")
    assert "batching.txt" in str(raised.value)


def test_an_empty_models_config_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "models.config").write_text("model_config_list {}")
    with pytest.raises(InputError, match="names no model"):
        settings.read_model_config(tmp_path / "models.config")
