"""The compiled job; runs where `kfp-pipeline-spec` is installed (docs/tfx.md)."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("tfx")
pytest.importorskip("kfp.pipeline_spec", reason="kfp-pipeline-spec is not installed")

from psad_tf.datasets.simulated import declaration
from psad_tf.simulator import SimulatorConfig
from tfx_pipeline.kubeflow import compile_for_kubeflow
from tfx_pipeline.settings import PipelineSettings


def test_the_job_has_every_component_in_the_image(tmp_path):
    settings = PipelineSettings("raw", "root", "serving", "metadata", declaration(SimulatorConfig()))
    compile_for_kubeflow(settings, tmp_path / "job.json", "registry.example/psad:1")
    spec = json.loads((tmp_path / "job.json").read_text())["pipelineSpec"]
    tasks = spec["root"]["dag"]["tasks"]
    components = {"ListExampleGen", "StatisticsGen", "DeclaredSchemaGen", "ExampleValidator", "AnomalyGate"}
    assert components | {"Trainer", "Evaluator", "InfraCheck", "Pusher"} <= set(tasks)
    assert "AnomalyGate" in tasks["Trainer"]["dependentTasks"]
    trainer = spec["deploymentSpec"]["executors"]["Trainer_executor"]["container"]
    assert trainer["image"] == "registry.example/psad:1"
