"""The compiled job, parsed with the protos of Kubeflow Pipelines.

They need an older protobuf than the locked environment has, so they lie in a folder of their own
(docs/tfx.md), which PSAD_KFP_PROTOS names; `.ci/run` makes it.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("tfx")

PROTOS = os.environ.get("PSAD_KFP_PROTOS", "")
IMAGE = "registry.example/psad:1"
PARSE = """
import json, sys
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as protos
job = json_format.ParseDict(json.load(open(sys.argv[1])), protos.PipelineJob())
spec = json_format.ParseDict(json_format.MessageToDict(job.pipeline_spec), protos.PipelineSpec())
print(len(spec.root.dag.tasks))
"""


def with_protos(*command: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.path.abspath(PROTOS),
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
    }
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(not PROTOS, reason="PSAD_KFP_PROTOS names no folder of Kubeflow's protos (docs/tfx.md)")
def test_the_job_is_valid_and_has_every_component_in_the_image(raw_dir, tmp_path):
    job = tmp_path / "job.json"
    options = ["--input_dir", str(raw_dir), "--output_dir", "pipeline", "--slice", "segment"]
    with_protos("-m", "psad_tf.cli", "tfx", *options, "--kubeflow", str(job), "--image", IMAGE)
    assert int(with_protos("-c", PARSE, str(job))) >= 10
    spec = json.loads(pathlib.Path(job).read_text())["pipelineSpec"]
    tasks = spec["root"]["dag"]["tasks"]
    components = {"ListExampleGen", "StatisticsGen", "DeclaredSchemaGen", "ExampleValidator", "AnomalyGate"}
    assert components | {"Trainer", "Evaluator", "InfraCheck", "Pusher"} <= set(tasks)
    assert "AnomalyGate" in tasks["Trainer"]["dependentTasks"]
    executors = spec["deploymentSpec"]["executors"]
    images = {each["container"]["image"] for each in executors.values() if "container" in each}
    assert images == {IMAGE}
