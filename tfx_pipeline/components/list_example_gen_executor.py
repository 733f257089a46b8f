"""The work of ListExampleGen: the Beam job, the flat candidates, the data view."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

from apache_beam.io.filesystems import FileSystems
from tfx.components.example_gen import utils
from tfx.components.experimental.data_view import constants
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from psad_tf.beam.manifest import MANIFEST
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.beam.sources import RawInputs
from psad_tf.data.records import KINDS
from psad_tf.errors import InputError
from psad_tf.features import SPLITS, FeatureDeclaration, from_plain
from psad_tf.tfx_pipeline.data_view import write_data_view
from psad_tf.tfx_pipeline.flatten import FlattenLists
from psad_tf.tfx_pipeline.settings import PipelineSettings

CANDIDATES = "candidates"
OPTIONS = "options"
RAW_FILES = "raw_files"
WINDOW = "window"  # spans, in the options
EARLIER = "earlier_spans"  # patterns of their raw folders, as the driver resolved them
_DATA_VIEW = "data_view"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads the raw data folder that the driver resolved; writes both outputs."""

    @staticmethod
    def encode_options(settings: PipelineSettings, code: str) -> dict[str, Any]:
        """What the executor needs of the settings, JSON-ready; all of it is in the cache's key."""
        return {
            "declaration": settings.declaration.to_dict(),
            "preprocess": dataclasses.asdict(settings.preprocess),
            "validated_share": settings.validated_share,
            WINDOW: settings.window,
            "code": code,
        }

    def Do(
        self,
        input_dict: dict[str, list[Any]],
        output_dict: dict[str, list[Any]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Runs the Beam job, then flattens its lists."""
        self._log_startup(input_dict, output_dict, exec_properties)
        options = json.loads(exec_properties[OPTIONS])
        declaration = FeatureDeclaration.from_dict(options["declaration"])
        job = from_plain(PreprocessOptions, options["preprocess"], "preprocess")
        examples = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        candidates = artifact_utils.get_single_instance(output_dict[CANDIDATES])

        inputs = _window_inputs(exec_properties)
        manifest = preprocess(
            inputs, examples.uri, declaration, options=job, pipeline_options=list(self._beam_pipeline_args)
        )
        write_data_view(declaration, os.path.join(examples.uri, _DATA_VIEW))
        for split in SPLITS:
            if not manifest["lists"][split]:
                raise InputError(
                    f"{_raw_folder(exec_properties)}: no list is in the {split} split; every split is needed "
                    "to train a model and to judge it"
                )
        for artifact, payload in (
            (examples, example_gen_pb2.FORMAT_PROTO),
            (candidates, example_gen_pb2.FORMAT_TF_EXAMPLE),
        ):
            artifact.split_names = artifact_utils.encode_split_names(list(SPLITS))
            examples_utils.set_payload_format(artifact, payload)
            _mark_span(artifact, exec_properties)
        for split in SPLITS:
            os.symlink(split, artifact_utils.get_split_uri([examples], split))
        self._flatten(examples, candidates, options["validated_share"])
        examples.set_string_custom_property(
            constants.DATA_VIEW_URI_PROPERTY_KEY, os.path.join(examples.uri, _DATA_VIEW)
        )
        examples.set_string_custom_property(constants.DATA_VIEW_CREATE_TIME_KEY, str(int(1e3 * time.time())))
        examples.set_string_custom_property(RAW_FILES, json.dumps(_raw_files(inputs)))
        examples.set_string_custom_property("lists", json.dumps(manifest["lists"]))
        examples.set_string_custom_property("manifest", os.path.join(examples.uri, MANIFEST))

    def _flatten(self, examples: Any, candidates: Any, share: float) -> None:
        with self._make_beam_pipeline() as pipeline:
            for split in SPLITS:
                folder = artifact_utils.get_split_uri([candidates], split)
                files = os.path.join(examples.uri, split, "*.tfrecord.gz")
                _ = pipeline | f"Flatten {split}" >> FlattenLists(
                    files, os.path.join(folder, "candidates"), share
                )


def _window_inputs(exec_properties: dict[str, Any]) -> RawInputs:
    """The raw files of the window's spans: users and items as they stand in the latest."""
    base = exec_properties[standard_component_specs.INPUT_BASE_KEY]
    latest = RawInputs.from_folder(_raw_folder(exec_properties))
    earlier = [
        RawInputs.from_folder(os.path.join(base, os.path.dirname(pattern)))
        for pattern in json.loads(exec_properties.get(EARLIER) or "[]")
    ]
    return dataclasses.replace(
        latest,
        impressions=tuple(path for each in (*earlier, latest) for path in each.impressions),
        interactions=tuple(path for each in (*earlier, latest) for path in each.interactions),
    )


def _raw_folder(exec_properties: dict[str, Any]) -> str:
    """The folder of the resolved pattern `<folder>/*`."""
    config = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], config)
    base = exec_properties[standard_component_specs.INPUT_BASE_KEY]
    return os.path.join(base, os.path.dirname(config.splits[0].pattern)).rstrip("/")


def _mark_span(artifact: Any, exec_properties: dict[str, Any]) -> None:
    artifact.span = exec_properties[utils.SPAN_PROPERTY_NAME]  # what StatisticsGen hands on
    artifact.set_int_custom_property(utils.SPAN_PROPERTY_NAME, exec_properties[utils.SPAN_PROPERTY_NAME])
    version = exec_properties.get(utils.VERSION_PROPERTY_NAME)
    if version is not None:
        artifact.set_int_custom_property(utils.VERSION_PROPERTY_NAME, version)


def _raw_files(inputs: RawInputs) -> list[dict[str, Any]]:
    """Path, size and time of change of every raw file, for the lineage."""
    patterns = [pattern for kind in KINDS for pattern in getattr(inputs, kind)]
    return [
        {
            "path": each.path,
            "bytes": each.size_in_bytes,
            "changed": round(each.last_updated_in_seconds or 0, 3),
        }
        for matched in FileSystems.match(patterns)
        for each in matched.metadata_list
    ]
