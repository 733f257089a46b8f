"""What lists are worth without showing them: the expected feedback that an evaluator gives to each.

The evaluator is the teacher of another run, trained on other users' lists and from another seed. Its value of
a list is

    V(list) = sum_l v[l, item at l],    v the expected gain of the item at slot l after the slots before

(`PSAD.list_value`). A model's own teacher would praise what it chose itself, mistakes included, so it is
refused. How far an evaluator can be trusted is measured where the truth is known: docs/evaluation.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.config import TrainConfig
from psad_tf.data.batches import ListDataset, filled_batch
from psad_tf.data.list_folder import check_lists
from psad_tf.errors import InputError
from psad_tf.evaluation.evaluate import ranked_batches
from psad_tf.features import INITIAL_RANK, load_json
from psad_tf.training.run_folder import best_checkpoint, load_parts, load_psad

_LEAST_BATCH = 128
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class ListValues:
    """The estimated value of every list by who ordered it.

    Attributes:
        values: {model: float32 [lists]}, lists in file order.
        slots: How many slots of a list were valued.
    """

    values: Mapping[str, np.ndarray]
    slots: int

    def report(self, seed: int = 0) -> dict[str, Any]:
        """Means, and the 95 % bootstrap interval of every difference of two models."""
        differences = {}
        for one, other in itertools.combinations(reversed(list(self.values)), 2):
            gained = self.values[one].astype(np.float64) - self.values[other]
            low, high = bootstrap_interval(gained, seed)
            differences[f"{one} - {other}"] = {"mean": float(gained.mean()), "low": low, "high": high}
        return {
            "slots": self.slots,
            "lists": len(next(iter(self.values.values()))),
            "values": {name: float(each.mean()) for name, each in self.values.items()},
            "differences": differences,
        }


def bootstrap_interval(values: np.ndarray, seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean: lists are drawn again with replacement.

    Args:
        values: float [lists].
        seed: Of the drawing.
        confidence: Of the interval.

    >>> low, high = bootstrap_interval(np.array([0.1, 0.3] * 50))
    >>> round(low, 2), round(high, 2)
    (0.18, 0.22)
    """
    random = np.random.default_rng(seed)
    # A few resamples at a time, so that memory stays small.
    means = [values[random.integers(len(values), size=len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def estimate_list_values(
    run_dir: str | os.PathLike[str],
    evaluator_dir: str | os.PathLike[str],
    lists_dir: str | os.PathLike[str],
    split: str,
    slots: int | None = None,
    verbose: bool = False,
) -> ListValues:
    """Values the initial, the student's and the teacher's lists of a run by another run's teacher.

    Args:
        run_dir: The run whose models are compared.
        evaluator_dir: The run whose teacher values the lists.
        lists_dir: What `psad preprocess` wrote.
        split: Its lists to rank.
        slots: Slots to value; by default the shorter of the two runs' lists.
        verbose: See `ranked_batches`.

    Raises:
        InputError: The evaluator is not independent of the run, or a folder is missing or does not fit.
    """
    check_evaluator(run_dir, evaluator_dir)
    encoder, model, config = load_psad(run_dir)
    judge_encoder, judge, judge_config = load_psad(evaluator_dir)
    for declaration in (encoder.declaration, judge_encoder.declaration):
        check_lists(lists_dir, declaration)
    max_slots = min(config.model.teacher.slots, judge_config.model.teacher.slots)
    slots = max_slots if slots is None else slots
    if not 1 <= slots <= max_slots:
        raise InputError(f"slots: must be 1 to {max_slots}, the lists' length in both runs, got {slots}")
    data = dataclasses.replace(
        config.data, cache=False, users="all", batch_size=max(config.data.batch_size, _LEAST_BATCH)
    )
    lists = ListDataset(lists_dir, split, encoder, data)
    judged = ListDataset(lists_dir, split, judge_encoder, data)

    @tf.function(jit_compile=config.jit_compile, autograph=False)
    def value(batch: Mapping[str, tf.Tensor], as_judged: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ranked = model.rank(batch)
        scores = {
            "initial": -tf.cast(batch[INITIAL_RANK], tf.float32),
            "student": ranked["student"],
            "teacher": ranked["teacher"],
        }
        return {
            name: judge.list_value(as_judged, first_slots(each, batch["mask"], slots))
            for name, each in scores.items()
        }

    collected: dict[str, list[np.ndarray]] = {}
    for pair in zip(ranked_batches(lists, verbose), judged.batches(), strict=True):
        count = len(pair[0]["mask"])
        for name, values in value(*(filled_batch(batch, data.batch_size) for batch in pair)).items():
            collected.setdefault(name, []).append(values.numpy()[:count])
    return ListValues({name: np.concatenate(parts) for name, parts in collected.items()}, slots)


def first_slots(scores: tf.Tensor, mask: tf.Tensor, slots: int) -> tf.Tensor:
    """The candidates at the first slots of the order by scores.

    Args:
        scores: float32 [batch, n].
        mask: bool [batch, n].
        slots: S.

    Returns:
        int32 [batch, S], -1 past the end of a shorter list.

    >>> first_slots(tf.constant([[0.1, 0.9, 5.0]]), tf.constant([[True, True, False]]), 3).numpy().tolist()
    [[1, 0, -1]]
    """
    order = tf.argsort(tf.where(mask, scores, -np.inf), axis=-1, direction="DESCENDING", stable=True)
    order = order[:, :slots]
    missing = slots - tf.shape(order)[1]
    order = tf.pad(order, [[0, 0], [0, missing]], constant_values=-1)
    length = tf.reduce_sum(tf.cast(mask, tf.int32), -1, keepdims=True)
    return tf.where(tf.range(slots) < length, order, -1)


def check_evaluator(run_dir: str | os.PathLike[str], evaluator_dir: str | os.PathLike[str]) -> None:
    """Refuses an evaluator that is not independent of the run that it is to judge.

    Raises:
        InputError: It is the run itself or a copy, has its seed, or was trained on lists of its users.
    """
    run, evaluator = os.fspath(run_dir), os.fspath(evaluator_dir)
    _, config = load_parts(run)
    _, judge = load_parts(evaluator)
    if os.path.realpath(run) == os.path.realpath(evaluator) or _weights(run) == _weights(evaluator):
        raise InputError(f"{evaluator}: is the run that it is to judge; train another one, on other users")
    if config.seed == judge.seed:
        raise InputError(f"{evaluator}: has the seed of {run} ({config.seed}); train it from another one")
    if _lists_of(run) == _lists_of(evaluator) and not _other_users(config, judge):
        raise InputError(
            f"{evaluator}: was trained on lists of the same users as {run}; train one with "
            '"data": {"users": "even"} and the other with "odd"'
        )


def _other_users(one: TrainConfig, other: TrainConfig) -> bool:
    return {one.data.users, other.data.users} == {"even", "odd"}


def _weights(run_dir: str) -> bytes:
    with open(f"{best_checkpoint(run_dir)}.index", "rb") as file:
        return file.read()  # holds a checksum of every weight


def _lists_of(run_dir: str) -> Any:
    manifest = load_json(os.path.join(run_dir, "lists_manifest.json"))
    return {name: facts.get("sha256") for name, facts in manifest.get("files", {}).items()}
