"""What TFMA computes and what it blesses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import tensorflow_model_analysis as tfma

from psad_tf.features import RELEVANCE
from psad_tf.metrics import METRICS
from psad_tf.tfx_pipeline.list_metrics import PADDING_LABEL
from psad_tf.tfx_pipeline.rules import BlessingRules

CANDIDATE, BASELINE = "candidate", "baseline"
NDCG, GAIN = "ndcg_10", "ndcg_10_gain"
_SIGNATURE = "rerank_examples"
_PADDING_SCORE = -1e30
_MODULE = "psad_tf.tfx_pipeline.list_metrics"


def eval_config(rules: BlessingRules, slices: Sequence[str]) -> tfma.EvalConfig:
    """The configuration of the stock Evaluator: two models, metrics by list, slices and thresholds.

    Both models get the serialized lists as they lie on disk, and their `scores` are compared with the data
    view's labels. Thresholds against the baseline are passed over where there is none yet.

    Args:
        rules: The thresholds.
        slices: Context features; metrics are reported for each value of each.
    """
    config = tfma.EvalConfig()
    for name in (CANDIDATE, BASELINE):
        model = config.model_specs.add(
            name=name,
            is_baseline=name == BASELINE,
            signature_name=_SIGNATURE,
            label_key=RELEVANCE,
            prediction_key="scores",
        )
        model.padding_options.label_float_padding = PADDING_LABEL
        model.padding_options.prediction_float_padding = _PADDING_SCORE
    config.slicing_specs.add()
    for name in slices:
        config.slicing_specs.add(feature_keys=[name])
    metrics = config.metrics_specs.add()
    metrics.metrics.add(class_name="ExampleCount")
    added = {
        metric: _add_metric(metrics, {"metric": metric, "name": metric.replace("@", "_")})
        for metric in METRICS
    }
    _bound(added["ndcg@10"], [[]], rules.ndcg_at_least, rules.change_at_least)
    groups = [[name] for name in slices]
    _bound(added["ndcg@10"], groups, rules.slice_ndcg_at_least, rules.slice_change_at_least)
    gain = _add_metric(metrics, {"metric": "ndcg@10", "gain": True, "name": GAIN})
    _bound(gain, [[]], rules.gain_at_least)
    return config


def _add_metric(metrics: tfma.MetricsSpec, arguments: dict[str, Any]) -> tfma.MetricConfig:
    return metrics.metrics.add(class_name="ListMetric", module=_MODULE, config=json.dumps(arguments))


def _bound(
    metric: tfma.MetricConfig,
    slices: list[list[str]],
    at_least: float | None = None,
    change: float | None = None,
) -> None:
    """Adds thresholds on a value and on its change on some slices; [] is the slice of all lists.

    A threshold without slices would hold in every slice, however few lists it has.
    """
    if not slices or (at_least is None and change is None):
        return
    bound = metric.per_slice_thresholds.add()
    for features in slices:
        bound.slicing_specs.add(feature_keys=features)
    if at_least is not None:
        bound.threshold.value_threshold.lower_bound.value = at_least
    if change is not None:
        bound.threshold.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
        bound.threshold.change_threshold.absolute.value = change


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an evaluation found.

    Attributes:
        passed: Whether every threshold is met.
        failures: A line a threshold that is not.
        metrics: Mean of each metric by slice (`overall`, `segment=s1` ...) of the candidate.
        baseline: The same of the baseline, empty without one.
    """

    passed: bool
    failures: tuple[str, ...]
    metrics: dict[str, dict[str, float]]
    baseline: dict[str, dict[str, float]]


def read_verdict(folder: str) -> Verdict:
    """Reads the Evaluator's output.

    Args:
        folder: Of the `evaluation` artifact.
    """
    result = tfma.load_validation_result(folder)
    failures = [
        f"{_slice_name(tfma.slicer.deserialize_slice_key(each.slice_key))}: {_failure(failure)}"
        for each in result.metric_validations_per_slice
        for failure in each.failures
    ]
    failures += [f"{', '.join(each.feature_keys)}: no such slice" for each in result.missing_slices]
    metrics = _metrics(folder)
    candidate = metrics.get(CANDIDATE) or metrics.get("", {})  # a model that is alone has no name
    return Verdict(
        bool(result.validation_ok),
        tuple(" ".join(each.split()) for each in failures),
        candidate,
        metrics.get(BASELINE, {}),
    )


def _failure(failure: Any) -> str:
    """One threshold that is not met, in words."""
    name, value = failure.metric_key.name, failure.metric_value.double_value.value
    if failure.message:
        return f"{name}: {failure.message}"
    if failure.metric_threshold.HasField("change_threshold"):
        wanted = failure.metric_threshold.change_threshold.absolute.value
        return (
            f"{name} differs by {value:+.4f} from the last blessed model's, at least {wanted:+.4f} is wanted"
        )
    wanted = failure.metric_threshold.value_threshold.lower_bound.value
    return f"{name} is {value:.4f}, at least {wanted:.4f} is wanted"


def _metrics(folder: str) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {slice: {metric: mean}}}."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for of_slice in tfma.load_metrics(folder):
        name = _slice_name(tfma.slicer.deserialize_slice_key(of_slice.slice_key))
        for each in of_slice.metric_keys_and_values:
            if not each.key.is_diff:
                metrics = found.setdefault(each.key.model_name, {}).setdefault(name, {})
                metrics[each.key.name] = each.value.double_value.value
    return found


def _slice_name(key: tuple[Any, ...]) -> str:
    return ",".join(f"{name}={value}" for name, value in key) or "overall"
