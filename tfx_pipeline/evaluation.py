"""What TFMA computes and what it blesses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import tensorflow_model_analysis as tfma

from psad_tf.features import RELEVANCE
from tfx_pipeline.list_metrics import PADDING_LABEL
from tfx_pipeline.rules import BlessingRules

CANDIDATE, BASELINE = "candidate", "baseline"
NDCG, GAIN = "ndcg_10", "ndcg_10_gain"
REPORTED = ("ndcg@5", "ndcg@10", "map@5", "map@10", "mrr", "auc")
_SIGNATURE = "rerank_examples"
_PADDING_SCORE = -1e30
_MODULE = "tfx_pipeline.list_metrics"


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
    for metric in REPORTED:
        name = metric.replace("@", "_")
        metrics.metrics.add(
            class_name="ListMetric", module=_MODULE, config=json.dumps({"metric": metric, "name": name})
        )
    metrics.metrics.add(
        class_name="ListMetric",
        module=_MODULE,
        config=json.dumps({"metric": "ndcg@10", "gain": True, "name": GAIN}),
    )
    bound = metrics.thresholds[NDCG]
    bound.value_threshold.lower_bound.value = rules.ndcg_at_least
    bound.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
    bound.change_threshold.absolute.value = rules.change_at_least
    metrics.thresholds[GAIN].value_threshold.lower_bound.value = rules.gain_at_least
    if rules.slice_ndcg_at_least is not None:
        for name in slices:
            per_slice = metrics.per_slice_thresholds[NDCG].thresholds.add()
            per_slice.slicing_specs.add(feature_keys=[name])
            per_slice.threshold.value_threshold.lower_bound.value = rules.slice_ndcg_at_least
    return config


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
        f"{_slice_name(tfma.slicer.deserialize_slice_key(each.slice_key))}: "
        f"{failure.metric_key.name}: {failure.message or 'threshold not met'}"
        for each in result.metric_validations_per_slice
        for failure in each.failures
    ]
    failures += [f"{', '.join(each.feature_keys)}: no such slice" for each in result.missing_slices]
    try:
        results = tfma.load_eval_results([folder], model_name=CANDIDATE).get_results()
        candidate = _metrics(results)
        baseline = _metrics(tfma.load_eval_results([folder], model_name=BASELINE).get_results())
    except KeyError:
        candidate, baseline = _metrics(tfma.load_eval_results([folder]).get_results()), {}
    return Verdict(bool(result.validation_ok), tuple(" ".join(f.split()) for f in failures), candidate, baseline)


def _metrics(results: Sequence[Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for result in results:
        for key, outputs in result.slicing_metrics:
            values = found.setdefault(_slice_name(key), {})
            for metrics in outputs[""].values():
                values.update({name: value["doubleValue"] for name, value in metrics.items()})
    return found


def _slice_name(key: tuple[Any, ...]) -> str:
    return ",".join(f"{name}={value}" for name, value in key) or "overall"
