"""Evaluator: TFX's own, which also withholds its blessing from a model that failed on the validation lists.

The stock Evaluator judges on the test lists. How the student ranked the validation lists, which chose its
epoch, stands in the model card that the export wrote; the bound on the gain holds there too.
"""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow_model_analysis as tfma
from tfx import types
from tfx.components.evaluator import component, constants, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import path_utils, proto_utils

from psad_tf.export.model_card import CARD_JSON
from psad_tf.features import load_json
from psad_tf.tfx_pipeline.evaluation import GAIN

REASON = "reason"


class Executor(executor.Executor):
    """TFMA's evaluation and blessing, then the model card's validation metrics."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates; the blessing's property `reason` says why the validation lists forbid it."""
        super().Do(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_KEY])
        config = tfma.EvalConfig()
        proto_utils.json_to_proto(exec_properties[standard_component_specs.EVAL_CONFIG_KEY], config)
        reason = failed_validation(path_utils.serving_model_path(model.uri), min_gain(config))
        if reason:
            withhold(output_dict[standard_component_specs.BLESSING_KEY][0], reason)


class Evaluator(component.Evaluator):
    """TFX's Evaluator with the executor above."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)


def min_gain(config: tfma.EvalConfig) -> float:
    """The bound on the gain over the initial order that an evaluation's configuration has."""
    (gain,) = (
        metric
        for specification in config.metrics_specs
        for metric in specification.metrics
        if metric.config and json.loads(metric.config).get("name") == GAIN
    )
    return float(gain.per_slice_thresholds[0].threshold.value_threshold.lower_bound.value)


def failed_validation(model_dir: str, at_least: float) -> str:
    """Why a model's validation metrics forbid to serve it, "" where they do not or are not known.

    Args:
        model_dir: The exported version.
        at_least: Bound on the student's NDCG@10 minus that of the initial order.
    """
    path = os.path.join(model_dir, CARD_JSON)
    metrics = load_json(path).get("metrics") if os.path.isfile(path) else None
    if not metrics:
        return ""
    student, initial = (metrics["valid"][name]["ndcg@10"] for name in ("student", "initial"))
    if student - initial >= at_least:
        return ""
    return (
        f"validation lists: {GAIN} is {student - initial:+.4f} (student {student:.4f}, initial order "
        f"{initial:.4f}), at least {at_least:+.4f} is wanted"
    )


def withhold(blessing: types.Artifact, reason: str) -> None:
    """Turns a blessing into none."""
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, constants.NOT_BLESSED_VALUE)
    blessing.set_string_custom_property(REASON, reason)
    blessed = os.path.join(blessing.uri, constants.BLESSED_FILE_NAME)
    if os.path.exists(blessed):
        os.rename(blessed, os.path.join(blessing.uri, constants.NOT_BLESSED_FILE_NAME))
