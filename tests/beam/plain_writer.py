"""The Beam job's result worked out again in the plainest way: everything in memory, one list at a time.

It shares no code with the job, so that the two check each other.
"""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from psad_tf.features import FeatureDeclaration


def _bytes(example: Any, name: str, values: list[str], width: int) -> None:
    padded = [value.encode() for value in values[:width]] + [b""] * (width - len(values))
    example.features.feature[name].bytes_list.value.extend(padded)


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [str(value)]


def encode(data: dict[str, list[dict[str, Any]]], declaration: FeatureDeclaration) -> dict[str, Any]:
    """The ExampleListWithContext of every impression by request id."""
    items = {row["item_id"]: row for row in data["items"]}
    users = {row["user_id"]: row for row in data["users"]}
    past = defaultdict(list)
    for row in data["interactions"]:
        past[row["user_id"]].append(row)
    lists = {}
    for impression in data["impressions"]:
        result = input_pb2.ExampleListWithContext()
        context = result.context
        feature = context.features.feature
        moment = datetime.datetime.fromtimestamp(impression["time"], datetime.UTC)
        feature["request_id"].bytes_list.value.append(impression["request_id"].encode())
        feature["request_time"].int64_list.value.append(impression["time"])
        known = {
            "request_hour": str(moment.hour),
            "request_weekday": str(moment.weekday()),
            **users.get(impression["user_id"], {}),
            **impression["context"],
            "user_id": impression["user_id"],
        }
        for each in declaration.context_categorical:
            _bytes(context, each.name, _strings(known.get(each.name)), each.width)
        for dense in declaration.context_dense:
            feature[dense.name].float_list.value.append(known.get(dense.name, np.nan))
        before = [row for row in past[impression["user_id"]] if row["time"] < impression["time"]]
        before.sort(key=lambda row: -row["time"])
        before = before[: declaration.history.length]
        for each in declaration.history.categorical:
            name = "history_" + each.name
            feature[name].bytes_list.SetInParent()
            for row in before:
                attributes = {**items.get(row["item_id"], {}), "item_id": row["item_id"]}
                _bytes(context, name, _strings(attributes.get(each.name)), each.width)
        for dense in declaration.history.dense:
            name = "history_" + dense.name
            feature[name].float_list.SetInParent()
            for row in before:
                numbers = {**row["feedback"], "age_seconds": impression["time"] - row["time"]}
                feature[name].float_list.value.append(numbers.get(dense.name, np.nan))
        for rank, candidate in enumerate(impression["candidates"]):
            example = result.examples.add()
            attributes = {**items.get(candidate["item_id"], {}), **candidate["features"]}
            attributes.update(item_id=candidate["item_id"], initial_score=candidate["initial_score"])
            for each in declaration.candidate_categorical:
                _bytes(example, each.name, _strings(attributes.get(each.name)), each.width)
            for dense in declaration.candidate_dense:
                example.features.feature[dense.name].float_list.value.append(
                    attributes.get(dense.name, np.nan)
                )
            feedback = candidate["feedback"]
            grade = 0
            for rule in declaration.label.grades:
                if rule.feedback in feedback and feedback[rule.feedback] >= rule.at_least:
                    grade = max(grade, rule.grade)
            negative = grade == 0 and any(
                rule.feedback in feedback and feedback[rule.feedback] <= rule.at_most
                for rule in declaration.label.negatives
            )
            example.features.feature["initial_rank"].int64_list.value.append(rank)
            example.features.feature["relevance"].float_list.value.append(grade)
            example.features.feature["negative"].float_list.value.append(negative)
        lists[impression["request_id"]] = result
    return lists


def vocabularies(lists: list[Any], declaration: FeatureDeclaration) -> dict[str, list[str]]:
    """The values of every vocabulary in training lists, the most frequent first."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in declaration.vocabularies}

    def count(example: Any, name: str, vocabulary: str) -> None:
        values = example.features.feature[name].bytes_list.value
        counts[vocabulary].update(value.decode() for value in values if value)

    for each in lists:
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


def dense_values(lists: list[Any], declaration: FeatureDeclaration) -> dict[str, np.ndarray]:
    """Every dense value of training lists, after the logarithm of those that take it."""
    found: dict[str, list[float]] = {key: [] for key in declaration.dense_keys}
    for each in lists:
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
