"""Which components the settings choose."""

from __future__ import annotations

import pytest

pytest.importorskip("tfx")

from tfx.proto import infra_validator_pb2
from tfx.utils import proto_utils

from psad_tf.datasets.simulator import SimulatorConfig, declaration
from psad_tf.tfx_pipeline.pipeline import create_pipeline
from psad_tf.tfx_pipeline.settings import PipelineSettings


def components(**changes: object) -> dict[str, object]:
    settings = PipelineSettings(
        "raw", "root", "serving", "metadata", declaration(SimulatorConfig()), **changes
    )
    return {each.id: each for each in create_pipeline(settings).components}


def test_without_an_image_the_embedded_server_checks_the_candidate():
    made = components()
    assert "InfraCheck" in made and "InfraValidator" not in made


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("tensorflow/serving:2.15.1", "tensorflow/serving", "2.15.1"),
        ("tensorflow/serving", "tensorflow/serving", "latest"),
        ("registry.example:5000/serving", "registry.example:5000/serving", "latest"),
        ("registry.example:5000/serving:2.15.1", "registry.example:5000/serving", "2.15.1"),
    ],
)
def test_with_an_image_tfxs_own_validator_loads_it_in_docker_and_the_pusher_heeds_it(image, name, tag):
    made = components(infra_image=image)
    assert "InfraCheck" not in made
    spec = infra_validator_pb2.ServingSpec()
    proto_utils.json_to_proto(made["InfraValidator"].exec_properties["serving_spec"], spec)
    assert spec.tensorflow_serving.image_name == name
    assert list(spec.tensorflow_serving.tags) == [tag]
    assert spec.WhichOneof("serving_platform") == "local_docker" and spec.model_name == "psad"
    assert made["Pusher"].inputs["infra_blessing"] is made["InfraValidator"].outputs["blessing"]


def test_a_curated_schema_replaces_the_declared_one(tmp_path):
    (tmp_path / "schema.pbtxt").write_text("")
    made = components(schema_file=str(tmp_path / "schema.pbtxt"))
    assert "ImportSchemaGen" in made and "DeclaredSchemaGen" not in made
