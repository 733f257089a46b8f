"""ListExampleGen: an ExampleGen that runs the Beam job on a raw data folder."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from tfx.components.example_gen import driver, input_processor, utils
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs
from tfx.types.channel import Channel
from tfx.utils import proto_utils

from psad_tf.tfx_pipeline.components.list_example_gen_executor import (
    CANDIDATES,
    EARLIER,
    OPTIONS,
    WINDOW,
    Executor,
)
from psad_tf.tfx_pipeline.settings import PipelineSettings


class ListExampleGenSpec(component_spec.ComponentSpec):
    """An ExampleGen's parameters, the job's options, and a second output."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        standard_component_specs.INPUT_BASE_KEY: component_spec.ExecutionParameter(type=str),
        standard_component_specs.INPUT_CONFIG_KEY: component_spec.ExecutionParameter(
            type=example_gen_pb2.Input
        ),
        standard_component_specs.RANGE_CONFIG_KEY: component_spec.ExecutionParameter(
            type=range_config_pb2.RangeConfig, optional=True
        ),
        OPTIONS: component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, Any]] = {}
    OUTPUTS: ClassVar[dict[str, Any]] = {
        standard_component_specs.EXAMPLES_KEY: component_spec.ChannelParameter(
            type=standard_artifacts.Examples
        ),
        CANDIDATES: component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }


class WindowDriver(driver.FileBasedDriver):
    """The stock driver resolves one span; this one also those of the window before it."""

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        """Adds the earlier spans' raw folders, and makes their files part of the cache's key."""
        asked = exec_properties[standard_component_specs.INPUT_CONFIG_KEY]
        resolved = super().resolve_exec_properties(exec_properties, pipeline_info, component_info)
        last, window = resolved[utils.SPAN_PROPERTY_NAME], json.loads(resolved[OPTIONS])[WINDOW]
        patterns, fingerprints = [], [resolved[utils.FINGERPRINT_PROPERTY_NAME]]
        for span in range(last - window + 1, last):
            config = example_gen_pb2.Input()
            proto_utils.json_to_proto(asked, config)
            processor = input_processor.FileBasedInputProcessor(
                resolved[standard_component_specs.INPUT_BASE_KEY], config.splits, static_range(span)
            )
            try:
                _, version = processor.resolve_span_and_version()
                fingerprints.append(processor.get_input_fingerprint(span, version))
            except ValueError:  # TFX's way to say that the span has no files
                continue
            patterns.append(processor.get_pattern_for_span_version(config.splits[0].pattern, span, version))
        resolved[EARLIER] = json.dumps(patterns)
        resolved[utils.FINGERPRINT_PROPERTY_NAME] = "\n".join(fingerprints)
        return resolved


class ListExampleGen(FileBasedExampleGen):
    """Raw logs -> lists, and the same candidates as flat Examples.

    The input's span and version are resolved, and its files fingerprinted for the cache, by the stock driver
    of file-based ExampleGens, and those of the window before it alike.

    Outputs:
        examples: `Examples` of payload FORMAT_PROTO with splits train, valid and test. Its folder is a
            folder of lists as `psad preprocess` writes it; `Split-<name>`, where TFX looks, leads to
            `<name>`, and `data_view` holds the data view.
        candidates: `Examples` of flat tf.Examples with the same splits, for TFDV (`flatten.py` says why).

    Args:
        settings: Where the input is, the features and the job's options.
        code: Fingerprint of the code, so that other code makes its outputs anew.
        span: The span to take; None takes the latest. Only where the input pattern has one.
    """

    SPEC_CLASS = ListExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    DRIVER_CLASS = WindowDriver

    def __init__(self, settings: PipelineSettings, code: str, span: int | None = None) -> None:
        split = example_gen_pb2.Input.Split(name="raw", pattern=settings.input_pattern)
        options = Executor.encode_options(settings, code)
        super(FileBasedExampleGen, self).__init__(
            spec=ListExampleGenSpec(
                input_base=settings.input_base,
                input_config=example_gen_pb2.Input(splits=[split]),
                range_config=None if span is None else static_range(span),
                options=json.dumps(options, sort_keys=True),
                examples=Channel(type=standard_artifacts.Examples),
                candidates=Channel(type=standard_artifacts.Examples),
            )
        )


def static_range(span: int) -> range_config_pb2.RangeConfig:
    """The range that is one span."""
    static = range_config_pb2.StaticRange(start_span_number=span, end_span_number=span)
    return range_config_pb2.RangeConfig(static_range=static)
