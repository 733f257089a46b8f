"""The pipeline's components and how they hang together.

    raw logs
       | ListExampleGen        our Beam job; spans and versions
       |---- examples (lists) ------------------------------.
       | candidates (flat)                                  |
       | StatisticsGen                                      |
       | ExampleValidator <-- DeclaredSchemaGen or          |
       |                      ImportSchemaGen               |
       | AnomalyGate           an anomaly ends the run      |
       | DriftGate             so does drift, with rules    |
       '----------------- then --> Trainer <----------------|
                                      | model               |
           LatestBlessed -- baseline --> Evaluator <--------'
                                      |     | blessing
                                      | InfraCheck (or InfraValidator)
                                      '--> Pusher --> <serving_base>/<model>/<version>

Lists stay ExampleListWithContext throughout. TFDV cannot read them, so it gets flat candidates; TFMA can,
through a data view, so the stock Evaluator judges whole lists.
"""

from __future__ import annotations

import json

import tfx.v1 as tfx
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration import metadata

from psad_tf.tfx_pipeline.code_version import code_fingerprint
from psad_tf.tfx_pipeline.components.anomaly_gate import AnomalyGate
from psad_tf.tfx_pipeline.components.declared_schema_gen import DeclaredSchemaGen
from psad_tf.tfx_pipeline.components.drift_gate import DriftGate, SpanBefore
from psad_tf.tfx_pipeline.components.evaluator import Evaluator
from psad_tf.tfx_pipeline.components.infra_check import InfraCheck
from psad_tf.tfx_pipeline.components.list_example_gen import ListExampleGen
from psad_tf.tfx_pipeline.components.pusher import Pusher
from psad_tf.tfx_pipeline.evaluation import eval_config
from psad_tf.tfx_pipeline.settings import CODE, MODEL_NAME, TRAIN, PipelineSettings

LATEST_BLESSED = "LatestBlessedModel"


def create_pipeline(settings: PipelineSettings, span: int | None = None) -> tfx.dsl.Pipeline:
    """Makes the pipeline, for any TFX runner.

    Args:
        settings: What goes in, where it goes, what is demanded.
        span: The span of the input to take; None takes the latest.

    Returns:
        The pipeline, with an SQLite metadata store.
    """
    code = code_fingerprint()
    example_gen = ListExampleGen(settings, code, span)
    lists = example_gen.outputs["examples"]
    statistics = tfx.components.StatisticsGen(examples=example_gen.outputs["candidates"])
    schema = _schema_gen(settings)
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    gates: list[BaseComponent] = [AnomalyGate(anomalies=validator.outputs["anomalies"])]
    if settings.data_rules.drift:
        gates += _drift_gate(statistics, schema)
    training = tfx.components.Trainer(
        run_fn=settings.run_fn,
        examples=lists,
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["valid"]),
        custom_config={
            TRAIN: json.loads(json.dumps(settings.train.to_dict())),
            MODEL_NAME: settings.model_name,
            CODE: code,
        },
    )
    for gate in gates:
        training.add_upstream_node(gate)
    model = training.outputs["model"]
    baseline = tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
    ).with_id(LATEST_BLESSED)
    evaluator = Evaluator(
        examples=lists,
        example_splits=["test"],
        model=model,
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(settings.blessing, settings.slices),
    )
    infra = _infra_check(settings, model)
    pusher = Pusher(
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=infra.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=settings.push_folder)
        ),
    )
    return tfx.dsl.Pipeline(
        pipeline_name=settings.name,
        pipeline_root=settings.pipeline_root,
        components=[
            example_gen,
            statistics,
            schema,
            validator,
            *gates,
            training,
            baseline,
            evaluator,
            infra,
            pusher,
        ],
        enable_cache=settings.enable_cache,
        metadata_connection_config=metadata.sqlite_metadata_connection_config(settings.metadata_path),
        beam_pipeline_args=list(settings.beam_args),
    )


def _schema_gen(settings: PipelineSettings) -> BaseComponent:
    if settings.schema_file is not None:
        return tfx.components.ImportSchemaGen(schema_file=settings.schema_file)
    return DeclaredSchemaGen(
        declaration=json.dumps(settings.declaration.to_dict(), sort_keys=True),
        rules=json.dumps(settings.data_rules.to_dict(), sort_keys=True),
    )


def _drift_gate(statistics: BaseComponent, schema: BaseComponent) -> list[BaseComponent]:
    """Compares the span's statistics with the latest earlier span's."""
    before = tfx.dsl.Resolver(
        strategy_class=SpanBefore,
        statistics=statistics.outputs["statistics"],
        earlier=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ExampleStatistics),
    ).with_id("SpanBefore")
    gate = DriftGate(
        statistics=before.outputs["statistics"],
        earlier=before.outputs["earlier"],
        schema=schema.outputs["schema"],
    )
    return [before, gate]


def _infra_check(settings: PipelineSettings, model: tfx.dsl.Channel) -> BaseComponent:
    if settings.infra_image is None:
        return InfraCheck(model=model, model_name=settings.model_name, max_latency_ms=settings.max_latency_ms)
    folder, _, name = settings.infra_image.rpartition("/")  # a registry's port is no tag
    name, _, tag = name.partition(":")
    image = f"{folder}/{name}" if folder else name
    serving = tfx.proto.TensorFlowServing(image_name=image, tags=[tag or "latest"])
    return tfx.components.InfraValidator(
        model=model,
        serving_spec=tfx.proto.ServingSpec(
            tensorflow_serving=serving,
            local_docker=tfx.proto.LocalDockerConfig(),
            model_name=settings.model_name,
        ),
    )
