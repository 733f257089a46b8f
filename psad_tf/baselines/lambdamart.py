"""LambdaMART by LightGBM, on dense features and hand-made ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.errors import InputError
from psad_tf.features import HISTORY_PREFIX, INITIAL_RANK, ITEM_ID, SHOWN_POSITION, FeatureDeclaration
from psad_tf.masking import LARGE_NEGATIVE

RECENT = 5
MOST_VALUES = 64


@dataclasses.dataclass(frozen=True)
class LambdaMARTConfig:
    """LightGBM's settings, by LightGBM's names.

    Args:
        num_leaves: Leaves of a tree.
        learning_rate: Shrinkage.
        min_data_in_leaf: Candidates that a leaf must hold.
        feature_fraction: Share of the features that a tree sees.
        bagging_fraction: Share of the candidates that a tree sees, drawn anew for every tree.
        num_iterations: Trees, at most.
        early_stopping_round: Trees without a better validation NDCG@10 before stopping.
        num_threads: Processor threads.
        seed: Of the drawing.
    """

    num_leaves: int = 31
    learning_rate: float = 0.05
    min_data_in_leaf: int = 50
    feature_fraction: float = 0.7
    bagging_fraction: float = 0.8
    num_iterations: int = 1000
    early_stopping_round: int = 50
    num_threads: int = 1
    seed: int = 1


class LambdaMART:
    """Boosted trees that maximize NDCG by LambdaRank's gradients.

    The features of a candidate (`tabular_features`) are all dense ones, the initial rank, the same dense
    ones relative to the list, categorical attributes as categories or value counts, and how candidate
    attributes match the history's; ids of users and items are left out, as trees only memorize them.
    Features look at all candidates; training groups hold those that were shown, as the others have no label.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary.
        config: LightGBM's settings.

    Reference: Burges, "From RankNet to LambdaRank to LambdaMART: An Overview", 2010; Ke et al.,
    "LightGBM", NIPS 2017.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration,
        vocabulary_sizes: Mapping[str, int],
        config: LambdaMARTConfig,
    ) -> None:
        self.declaration = declaration
        self.vocabulary_sizes = vocabulary_sizes
        self.config = config
        self.booster: Any = None

    def fit(
        self, training: Iterable[Mapping[str, tf.Tensor]], validation: Iterable[Mapping[str, tf.Tensor]]
    ) -> float:
        """Trains with early stopping.

        Args:
            training: Encoded batches with `labels` and `shown_position`.
            validation: The same, held out.

        Returns:
            LightGBM's own validation NDCG@10 at the kept number of trees; it counts lists without any
            positive label as 1.

        Raises:
            InputError: LightGBM is not installed.
        """
        try:
            import lightgbm
        except ModuleNotFoundError:
            raise InputError("LambdaMART needs the package lightgbm (in requirements-dev.txt)") from None

        train, valid = self._dataset(lightgbm, training), self._dataset(lightgbm, validation)
        valid.set_reference(train)
        top_grade = max(rule.grade for rule in self.declaration.label.grades)
        settings = {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "label_gain": [2**grade - 1 for grade in range(top_grade + 1)],
            "lambdarank_truncation_level": 20,
            "bagging_freq": 1,
            "deterministic": True,
            "verbosity": -1,
            **dataclasses.asdict(self.config),
        }
        self.booster = lightgbm.train(settings, train, valid_sets=[valid])
        return float(self.booster.best_score["valid_0"]["ndcg@10"])

    def rank(self, encoded: Mapping[str, tf.Tensor]) -> np.ndarray:
        """Ranking scores, float64 [batch, n]: higher is nearer the top, padding lowest."""
        features, _ = tabular_features(encoded, self.declaration, self.vocabulary_sizes)
        mask = np.asarray(encoded["mask"])
        scores = np.full(mask.shape, LARGE_NEGATIVE)
        scores[mask] = self.booster.predict(features[mask], num_threads=self.config.num_threads)
        return scores

    def _dataset(self, lightgbm: Any, batches: Iterable[Mapping[str, tf.Tensor]]) -> Any:
        rows, labels, groups = [], [], []
        categories: list[int] = []
        for batch in batches:
            features, categories = tabular_features(batch, self.declaration, self.vocabulary_sizes)
            shown = np.asarray(batch[SHOWN_POSITION]) >= 0
            rows.append(features[shown])
            labels.append(np.asarray(batch["labels"])[shown])
            groups.append(shown.sum(1))
        return lightgbm.Dataset(
            np.concatenate(rows),
            label=np.concatenate(labels),
            group=np.concatenate(groups),
            categorical_feature=categories,
            free_raw_data=False,
        )


def tabular_features(
    encoded: Mapping[str, tf.Tensor], declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int]
) -> tuple[np.ndarray, list[int]]:
    """The trees' features of every candidate.

    Args:
        encoded: What `FeatureEncoder` gives.
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary; of a feature of several values, its
            `MOST_VALUES` most frequent ones are a feature each.

    Returns:
        float32 [batch, n, features], and which of the features are categories.
    """
    arrays = {key: np.asarray(value) for key, value in encoded.items()}
    mask = arrays["mask"]
    batch, n = mask.shape
    columns: list[np.ndarray] = []
    categories: list[int] = []

    def of_list(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values[:, np.newaxis], (batch, n))

    dense = arrays["candidate_dense"]
    columns += list(np.moveaxis(dense, -1, 0))
    columns += list(np.moveaxis(_relative(dense, mask), -1, 0))
    columns.append(arrays[INITIAL_RANK].astype(np.float32))
    columns.append(of_list(mask.sum(1)))
    columns += [of_list(values) for values in np.moveaxis(arrays["context_dense"], -1, 0)]
    for feature in declaration.context_categorical:
        if feature.name != "user_id":
            categories.append(len(columns))
            columns.append(of_list(arrays[feature.name][:, 0]))
    for feature in declaration.candidate_categorical:
        if feature.name == ITEM_ID:
            continue
        ids = arrays[feature.name]
        if feature.width == 1:
            categories.append(len(columns))
            columns.append(ids[..., 0])
        else:
            columns.append((ids != 0).sum(-1))
            known = min(vocabulary_sizes[feature.vocabulary], MOST_VALUES + 2)
            columns += [(ids == value).any(-1) for value in range(2, known)]
    for feature in declaration.history.categorical:
        match = [f for f in declaration.candidate_categorical if f.vocabulary == feature.vocabulary]
        if match:
            columns += _history_matches(arrays[match[0].name], arrays[HISTORY_PREFIX + feature.name], arrays)
    return np.stack([np.asarray(column, np.float32) for column in columns], -1), categories


def _relative(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each value's share of the list's candidates that it exceeds, [batch, n, features]."""
    others = mask[:, np.newaxis, :, np.newaxis]
    exceeds = (values[:, :, np.newaxis] > values[:, np.newaxis]) & others
    return exceeds.sum(2) / np.maximum(mask.sum(1), 1)[:, np.newaxis, np.newaxis]


def _history_matches(
    candidates: np.ndarray, history: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """How a candidate's values of one vocabulary occur in the history, [batch, n] each.

    The share of past items that share a value; the same of the most recent ones; and the mean of each
    dense history feature over the past items that share a value, less its mean over all.
    """
    known = (candidates[:, :, np.newaxis, :, np.newaxis] > 1) & (
        candidates[:, :, np.newaxis, :, np.newaxis] == history[:, np.newaxis, :, np.newaxis, :]
    )
    shares = known.any((3, 4)) & arrays["history_mask"][:, np.newaxis]  # [batch, n, h]
    past = np.maximum(arrays["history_mask"].sum(1), 1)[:, np.newaxis]
    columns = [shares.sum(2) / past, shares[:, :, :RECENT].sum(2) / RECENT]
    for values in np.moveaxis(arrays["history_dense"], -1, 0):
        overall = (values * arrays["history_mask"]).sum(1)[:, np.newaxis] / past
        matching = (shares * values[:, np.newaxis]).sum(2) / np.maximum(shares.sum(2), 1)
        columns.append(np.where(shares.any(2), matching - overall, 0.0))
    return columns
