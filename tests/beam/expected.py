"""What the Beam job has to write, worked out again in the plainest way: everything in memory.

The lists come from the benchmark's plain writer, which shares no code with the job.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.plain_writer import Tables
from psad_tf.features import FeatureDeclaration


def lists(data: dict[str, list[dict[str, Any]]], declaration: FeatureDeclaration) -> dict[str, Any]:
    """The ExampleListWithContext of every impression by request id."""
    tables = Tables(data["users"], data["items"], data["interactions"])
    return {each["request_id"]: tables.encode(each, declaration) for each in data["impressions"]}


def vocabularies(made: list[Any], declaration: FeatureDeclaration) -> dict[str, list[str]]:
    """The values of every vocabulary in training lists, the most frequent first."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in declaration.vocabularies}

    def count(example: Any, name: str, vocabulary: str) -> None:
        values = example.features.feature[name].bytes_list.value
        counts[vocabulary].update(value.decode() for value in values if value)

    for each in made:
        for feature in declaration.context_categorical:
            count(each.context, feature.name, feature.vocabulary)
        for feature in declaration.history.categorical:
            count(each.context, "history_" + feature.name, feature.vocabulary)
        for feature in declaration.candidate_categorical:
            for example in each.examples:
                count(example, feature.name, feature.vocabulary)
    return {
        name: sorted(found, key=lambda value: (-found[value], value.encode()))
        for name, found in counts.items()
    }


def dense_values(made: list[Any], declaration: FeatureDeclaration) -> dict[str, np.ndarray]:
    """Every dense value of training lists, after the logarithm of those that take it."""
    found: dict[str, list[float]] = {key: [] for key in declaration.dense_keys}
    for each in made:
        examples: list[tf.train.Example] = [each.context, *each.examples]
        for example in examples:
            for key in found:
                if key in example.features.feature:
                    found[key].extend(example.features.feature[key].float_list.value)
    features = (*declaration.context_dense, *declaration.history.dense, *declaration.candidate_dense)
    transforms = dict(zip(declaration.dense_keys, (feature.transform for feature in features), strict=True))
    return {
        key: np.log1p(np.maximum(values, 0)) if transforms[key] == "log1p_standardize" else np.array(values)
        for key, values in found.items()
    }
