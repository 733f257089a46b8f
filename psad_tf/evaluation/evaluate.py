"""Evaluation of the initial order, the teacher's generated lists and the student on one split."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.config import DataConfig
from psad_tf.data.batches import ListDataset, filled_batch
from psad_tf.data.list_folder import explain
from psad_tf.errors import InputError
from psad_tf.features import INITIAL_RANK, SHOWN_POSITION
from psad_tf.metrics import Convention, kendall_agreement, mean_metrics, per_list_metrics

SELECTION_METRIC = "ndcg@10"
RankFunction = Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]
_agreement = tf.function(kendall_agreement, autograph=False, reduce_retracing=True)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of each model, a value a list, lists in file order.

    Attributes:
        values: {model: {metric: float64 [lists]}}; NaN where a list has no positive label.
        agreement: Kendall's tau of teacher and student, float64 [lists]; empty without both.
        history_lengths: Past interactions that the model saw of the list's user, int64 [lists].
    """

    values: Mapping[str, Mapping[str, np.ndarray]]
    agreement: np.ndarray
    history_lengths: np.ndarray

    def means(self) -> dict[str, dict[str, float]]:
        """{model: {metric: mean over the lists that have it}}."""
        return {model: mean_metrics(each) for model, each in self.values.items()}

    def by_history(self, groups: int = 4) -> list[dict[str, Any]]:
        """The means by how active the users were.

        Args:
            groups: Of `history_groups`.

        Returns:
            For each group, from the shortest histories to the longest: `min_history` and `max_history`,
            number of `lists`, and `means` as in `means()`.
        """
        return [
            {
                **facts,
                "means": {
                    model: mean_metrics({metric: each[chosen] for metric, each in metrics.items()})
                    for model, metrics in self.values.items()
                },
            }
            for facts, chosen in history_groups(self.history_lengths, groups)
        ]


def history_groups(lengths: np.ndarray, groups: int = 4) -> list[tuple[dict[str, int], np.ndarray]]:
    """Lists cut at the quantiles of their history lengths, so that groups are of about equal size.

    Lists of one length stay together, so there may be fewer groups.

    Args:
        lengths: Past interactions of each list's user, int [lists].
        groups: How many at most.

    Returns:
        For each group, from the shortest histories to the longest: `min_history`, `max_history` and number of
        `lists`, and which lists they are, bool [lists].

    >>> for facts, chosen in history_groups(np.array([0, 9, 0, 4]), 2):
    ...     print(facts, chosen.astype(int))
    {'min_history': 0, 'max_history': 0, 'lists': 2} [1 0 1 0]
    {'min_history': 4, 'max_history': 9, 'lists': 2} [0 1 0 1]
    """
    bounds = np.unique(np.quantile(lengths, np.arange(1, groups) / groups, method="lower"))
    group = np.searchsorted(bounds, lengths, side="left")
    found = []
    for number in np.unique(group):
        chosen = group == number
        least, most = int(lengths[chosen].min()), int(lengths[chosen].max())
        found.append(({"min_history": least, "max_history": most, "lists": int(chosen.sum())}, chosen))
    return found


def ranked_batches(lists: ListDataset, verbose: bool) -> Iterator[dict[str, tf.Tensor]]:
    """The batches of lists that are ranked one after another.

    Args:
        lists: Ready to be ranked.
        verbose: Say that they are, with a progress bar on a terminal.
    """
    if verbose:
        print(f"Ranking the {lists.split} lists ...", flush=True)
    shown = verbose and sys.stdout.isatty()
    bar = tf.keras.utils.Progbar(lists.steps_per_epoch, unit_name="batch") if shown else None
    for number, batch in enumerate(lists.batches(), start=1):
        yield batch
        if bar is not None:
            bar.update(number)


class Evaluator:
    """Ranks the lists of one split, again and again, in one compiled graph.

    Args:
        lists: The split's lists.
        rank: Encoded batch -> {model: scores float32 [batch, n]}; compiled here.
        jit_compile: Compile with XLA.
        convention: Of `per_list_metrics`.
    """

    def __init__(
        self,
        lists: ListDataset,
        rank: RankFunction,
        jit_compile: bool = True,
        convention: Convention = "psad",
    ) -> None:
        self.lists = lists
        self.convention = convention
        self._rank = tf.function(rank, jit_compile=jit_compile, autograph=False)

    def run(self, verbose: bool = False) -> Evaluation:
        """Ranks every list and computes its metrics; `initial` is always among the models.

        Args:
            verbose: See `ranked_batches`.
        """
        collected: dict[str, dict[str, list[np.ndarray]]] = {}
        agreement: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        try:
            for batch in ranked_batches(self.lists, verbose):
                self._collect(batch, collected, agreement)
                lengths.append(batch["history_mask"].numpy().sum(1))
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            raise InputError(f"{self.lists.split} lists: a record cannot be read: {explain(error)}") from None
        return Evaluation(
            {
                model: {metric: np.concatenate(parts) for metric, parts in metrics.items()}
                for model, metrics in collected.items()
            },
            np.concatenate(agreement) if agreement else np.empty(0),
            np.concatenate(lengths) if lengths else np.empty(0, np.int64),
        )

    def _collect(
        self,
        batch: dict[str, tf.Tensor],
        collected: dict[str, dict[str, list[np.ndarray]]],
        agreement: list[np.ndarray],
    ) -> None:
        count = int(batch["mask"].shape[0] or tf.shape(batch["mask"])[0])
        scores = {
            name: each.numpy()[:count]
            for name, each in self._rank(filled_batch(batch, self.lists.config.batch_size)).items()
        }
        scores = {"initial": -batch[INITIAL_RANK].numpy().astype(np.float64), **scores}
        labels, mask = batch["labels"].numpy(), batch["mask"].numpy()
        shown = batch[SHOWN_POSITION].numpy() >= 0  # the others have no label
        if "teacher" in scores and "student" in scores:
            agreement.append(_agreement(scores["teacher"], scores["student"], where=mask).numpy())
        for model, each in scores.items():
            if model == "probabilities":
                continue
            if not np.isfinite(each[mask]).all():  # a metric of NaN would mean nothing
                raise InputError(f"{self.lists.split} lists: scores of the {model} are not finite numbers")
            for metric, values in per_list_metrics(
                each, labels, where=shown, convention=self.convention
            ).items():
                collected.setdefault(model, {}).setdefault(metric, []).append(values)


def worse_than_initial(metrics: Mapping[str, Mapping[str, float]], lists: str) -> str:
    """One line where the student ranks worse than the initial ranker did, "" elsewhere.

    Args:
        metrics: {model: {metric: value}}.
        lists: What they were measured on, for the line.
    """
    student, initial = metrics["student"][SELECTION_METRIC], metrics["initial"][SELECTION_METRIC]
    if not student < initial:
        return ""
    return (
        f"The student is worse than the initial order on the {lists} lists: "
        f"NDCG@10 {student:.4f} against {initial:.4f}. Do not serve it."
    )


def evaluate_run(
    run_dir: str | os.PathLike[str],
    lists_dir: str | os.PathLike[str],
    split: str,
    convention: Convention = "psad",
    verbose: bool = False,
) -> Evaluation:
    """Evaluates a finished run on one split of a list folder.

    Args:
        run_dir: What `psad train` wrote.
        lists_dir: What `psad preprocess` wrote.
        split: `train`, `valid` or `test`.
        convention: Of `per_list_metrics`.
        verbose: See `ranked_batches`.

    Raises:
        InputError: A folder is missing, not whole, the two do not fit, or no list of the split has a
            positive label.
    """
    from psad_tf.data.list_folder import check_lists
    from psad_tf.training.run_folder import load_psad

    encoder, model, config = load_psad(run_dir)
    check_lists(lists_dir, encoder.declaration)
    data = dataclasses.replace(config.data, cache=False)
    lists = ListDataset(lists_dir, split, encoder, _evaluation_data(data))
    lists.check_positives()
    return Evaluator(lists, model.rank, config.jit_compile, convention).run(verbose)


def _evaluation_data(config: DataConfig) -> DataConfig:
    return dataclasses.replace(config, batch_size=max(config.batch_size, 128))
