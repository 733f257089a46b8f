"""Exported against in-process: every signature must give the scores that the trained model gives."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.data.list_folder import read_serialized
from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.export.inspect import folder_bytes
from psad_tf.export.warmup import raw_tensors
from psad_tf.features import RELEVANCE
from psad_tf.masking import LARGE_NEGATIVE
from psad_tf.metrics import per_list_metrics
from psad_tf.serving.contract import (
    BLOCKED,
    EXAMPLES,
    PADDING_POSITION,
    RERANK_EXAMPLES,
    RERANK_MASKED,
    SERVING_DEFAULT,
)
from psad_tf.training.run_folder import load_reranker

TOLERANCE = 1e-5
_BATCH = 8
_TIMED_CALLS = 50


@dataclasses.dataclass(frozen=True)
class Parity:
    """What `check_parity` found.

    Attributes:
        lists: Lists compared.
        max_abs_diff: Largest difference of a score or probability, by signature.
        max_abs_score: Largest absolute score of a candidate in process, at least 1.
        same_order: Share of lists whose ranking is the in-process one, ties apart, by signature.
        ndcg_at_10: Mean NDCG@10 of the exported model.
        ndcg_at_10_in_process: The same of the model in process.
        latency_ms: Median time of one list in process, by signature.
        bytes: Size of the exported files.
        tolerance: Largest difference that passes, as a share of `max_abs_score`.
    """

    lists: int
    max_abs_diff: dict[str, float]
    max_abs_score: float
    same_order: dict[str, float]
    ndcg_at_10: float
    ndcg_at_10_in_process: float
    latency_ms: dict[str, float]
    bytes: int
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether every difference is within the tolerance."""
        allowed = self.tolerance * self.max_abs_score
        return all(each <= allowed for each in self.max_abs_diff.values())  # NaN is not

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return dataclasses.asdict(self) | {"passed": self.passed}


def check_parity(
    run_dir: str | os.PathLike[str],
    model_dir: str | os.PathLike[str],
    lists_dir: str | os.PathLike[str],
    *,
    split: str = "test",
    n: int = 200,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Runs the same real lists through an exported model and through the run it comes from.

    Args:
        run_dir: The run.
        model_dir: A version's folder, `<base>/<model>/<version>`.
        lists_dir: Folder of lists.
        split: Which lists.
        n: How many.
        tolerance: Largest difference that passes, relative to the largest absolute score where that is
            above 1, as rounding grows with it; float16 weights need about 1e-3.

    Raises:
        InputError: A folder is not what it should be, there are no lists, or `n` or `tolerance` is
            impossible.
    """
    if n < 1:
        raise InputError(f"n: must be at least 1, got {n}")
    if not 0.0 <= tolerance < math.inf:
        raise InputError(f"tolerance: must be a number of 0 or more, got {tolerance}")
    model_dir = os.fspath(model_dir)
    encoder, reranker, _ = load_reranker(run_dir)
    lists = list(read_serialized(lists_dir, split).take(n).as_numpy_iterator())
    if not lists:
        raise InputError(f"{os.fspath(lists_dir)}: the split {split!r} has no lists")
    if not os.path.isfile(os.path.join(model_dir, "saved_model.pb")):
        raise InputError(f"{model_dir}: is not a SavedModel (it has no saved_model.pb)")
    loaded = _load(model_dir)  # its tables live as long as it does
    declaration = encoder.declaration

    @tf.function(autograph=False, reduce_retracing=True)
    def in_process(raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return reranker(encoder(raw))

    callers: dict[str, Callable[[Sequence[bytes]], Any]] = {
        name: _caller(loaded.signatures[name], name, declaration)
        for name in (SERVING_DEFAULT, RERANK_EXAMPLES, RERANK_MASKED)
    }
    differences: dict[str, list[float]] = {name: [] for name in callers}
    max_abs_score = 1.0
    agreeing = dict.fromkeys(callers, 0)
    quality: dict[str, list[np.ndarray]] = {"exported": [], "in process": []}
    for start in range(0, len(lists), _BATCH):
        batch = lists[start : start + _BATCH]
        raw = parse_lists(tf.constant(batch, tf.string), declaration)
        expected = {name: value.numpy() for name, value in in_process(raw).items()}
        labels = raw[RELEVANCE].numpy()
        mask = labels >= 0.0
        max_abs_score = max(max_abs_score, largest_score(expected["scores"]))
        for name, call in callers.items():
            outputs = {key: value.numpy() for key, value in call(batch).items()}
            differences[name].append(largest_difference(outputs, expected))
            agreeing[name] += _same_order(outputs["ranking"], expected["scores"])
            if name == SERVING_DEFAULT:
                quality["exported"].append(per_list_metrics(outputs["scores"], labels, where=mask)["ndcg@10"])
        quality["in process"].append(per_list_metrics(expected["scores"], labels, where=mask)["ndcg@10"])
    return Parity(
        lists=len(lists),
        max_abs_diff={name: float(np.max(each)) for name, each in differences.items()},
        max_abs_score=max_abs_score,
        same_order={name: count / len(lists) for name, count in agreeing.items()},
        ndcg_at_10=_mean(quality["exported"]),
        ndcg_at_10_in_process=_mean(quality["in process"]),
        latency_ms={
            name: _latency(loaded.signatures[name], name, lists[:1], declaration) for name in callers
        },
        bytes=folder_bytes(model_dir),
        tolerance=tolerance,
    )


def _load(model_dir: str) -> Any:
    try:
        loaded = tf.saved_model.load(model_dir)
    except (OSError, ValueError, IndexError, KeyError, tf.errors.OpError) as error:
        raise InputError(
            f"{model_dir}: is damaged and cannot be loaded ({str(error).splitlines()[0][:150]})"
        ) from None
    missing = {SERVING_DEFAULT, RERANK_EXAMPLES, RERANK_MASKED} - set(loaded.signatures)
    if missing:
        raise InputError(f"{model_dir}: is not an exported reranker (it has no signature {min(missing)!r})")
    return loaded


def _mean(parts: list[np.ndarray]) -> float:
    values = np.concatenate(parts)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def largest_difference(answer: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest absolute difference from any value that is expected, NaN if one is NaN."""
    return float(np.max([np.max(np.abs(answer[key] - each), initial=0.0) for key, each in expected.items()]))


def largest_score(scores: np.ndarray) -> float:
    """The largest absolute score of a candidate, at least 1: what rounding errors are in proportion to."""
    return float(np.max(np.abs(scores), initial=1.0, where=scores > LARGE_NEGATIVE))


def _same_order(ranking: np.ndarray, scores: np.ndarray) -> int:
    """Lists whose ranking puts the in-process scores in descending order."""
    best = -np.sort(-scores, axis=1)[:, : ranking.shape[1]]
    ranked = np.take_along_axis(scores, np.maximum(ranking, 0), 1)
    return int(np.sum(np.all((ranked == best) | (ranking == PADDING_POSITION), axis=1)))


def _inputs(name: str, lists: Sequence[bytes], declaration: Any) -> dict[str, tf.Tensor]:
    if name == RERANK_EXAMPLES:
        return {EXAMPLES: tf.constant(list(lists), tf.string)}
    raw: dict[str, Any] = raw_tensors(lists, declaration)
    if name == RERANK_MASKED:
        raw[BLOCKED] = np.zeros(raw["initial_rank"].shape, bool)
    return {key: tf.constant(value) for key, value in raw.items()}


def _caller(signature: Any, name: str, declaration: Any) -> Callable[[Sequence[bytes]], Any]:
    return lambda lists: signature(**_inputs(name, lists, declaration))


def _latency(signature: Any, name: str, lists: Sequence[bytes], declaration: Any) -> float:
    inputs = _inputs(name, lists, declaration)
    times = []
    for _ in range(_TIMED_CALLS):
        start = time.perf_counter()
        signature(**inputs)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))
