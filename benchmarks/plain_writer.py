"""The floor that the Beam job is measured against: a plain single-process writer of the same records.

Everything is in memory, messages are built by the protos' own Python classes, and nothing is checked,
deduplicated, counted, sorted or restartable. It writes the lists only, without vocabularies and statistics.

It shares no code with the job, so the job's tests also hold the job's lists against its lists.
"""

from __future__ import annotations

import bisect
import collections
import datetime
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from psad_tf.features import AGE_SECONDS, HISTORY_PREFIX, INITIAL_SCORE, ITEM_ID, USER_ID, FeatureDeclaration

NAN = float("nan")
Rows = Iterable[dict[str, Any]]


def write_lists(raw_dir: str, output_dir: str, declaration: FeatureDeclaration, level: int) -> int:
    """Writes one gzip TFRecord file a split, lists in the logs' order.

    Args:
        raw_dir: A raw data folder whose impressions have a split each.
        output_dir: The folder to write.
        declaration: The features.
        level: Of gzip, 1 to 9.

    Returns:
        The number of lists.
    """
    import tensorflow as tf

    os.makedirs(output_dir, exist_ok=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=level)
    writers = {
        split: tf.io.TFRecordWriter(os.path.join(output_dir, f"{split}.tfrecord.gz"), options)
        for split in ("train", "valid", "test")
    }
    tables = Tables(read(raw_dir, "users"), read(raw_dir, "items"), read(raw_dir, "interactions"))
    count = 0
    for impression in read(raw_dir, "impressions"):
        writers[impression["split"]].write(tables.encode(impression, declaration).SerializeToString())
        count += 1
    for writer in writers.values():
        writer.close()
    return count


def read(raw_dir: str, kind: str) -> Iterator[dict[str, Any]]:
    """The records of one kind."""
    with open(os.path.join(raw_dir, f"{kind}.jsonl"), encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


class Tables:
    """Users, items and interactions, in memory."""

    def __init__(self, users: Rows, items: Rows, interactions: Rows) -> None:
        self._users = {row["user_id"]: row for row in users}
        self._items = {row["item_id"]: row for row in items}
        past: dict[str, list[tuple[int, str, dict[str, float]]]] = collections.defaultdict(list)
        for row in interactions:
            past[row["user_id"]].append((row["time"], row["item_id"], row.get("feedback") or {}))
        for rows in past.values():
            rows.sort(key=lambda row: row[:2])
        self._past = past

    def encode(self, impression: dict[str, Any], declaration: FeatureDeclaration) -> Any:
        """The ExampleListWithContext of one impression."""
        from tensorflow_serving.apis import input_pb2

        result = input_pb2.ExampleListWithContext()
        context = result.context.features.feature
        time, user_id = impression["time"], impression["user_id"]
        context["request_id"].bytes_list.value.append(impression["request_id"].encode())
        context["request_time"].int64_list.value.append(time)
        moment = datetime.datetime.fromtimestamp(time, datetime.UTC)
        known = {
            "request_hour": str(moment.hour),
            "request_weekday": str(moment.weekday()),
            **self._users.get(user_id, {}),
            **(impression.get("context") or {}),
            USER_ID: user_id,
        }
        for categorical in declaration.context_categorical:
            context[categorical.name].bytes_list.value.extend(_strings(known, categorical))
        for dense in declaration.context_dense:
            context[dense.name].float_list.value.append(known.get(dense.name, NAN))
        past = self._past.get(user_id, [])
        end = bisect.bisect_left(past, (time,))
        recent = past[max(0, end - declaration.history.length) : end][::-1]
        rows = [{**self._items.get(item_id, {}), ITEM_ID: item_id} for _, item_id, _ in recent]
        for categorical in declaration.history.categorical:
            values = context[HISTORY_PREFIX + categorical.name].bytes_list
            values.SetInParent()
            for row in rows:
                values.value.extend(_strings(row, categorical))
        for dense in declaration.history.dense:
            floats = context[HISTORY_PREFIX + dense.name].float_list
            floats.SetInParent()
            if dense.name == AGE_SECONDS:
                floats.value.extend([time - moment for moment, _, _ in recent])
            else:
                floats.value.extend([feedback.get(dense.name, NAN) for _, _, feedback in recent])
        some = any(candidate.get("position") is not None for candidate in impression["candidates"])
        for rank, candidate in enumerate(impression["candidates"]):
            feature = result.examples.add().features.feature
            self._add_candidate(feature, rank, candidate, declaration)
            position = candidate.get("position") if some else rank
            feature["shown_position"].int64_list.value.append(-1 if position is None else position)
        return result

    def _add_candidate(
        self, feature: Any, rank: int, candidate: dict[str, Any], declaration: FeatureDeclaration
    ) -> None:
        item_id = candidate["item_id"]
        known = {
            **self._items.get(item_id, {}),
            **(candidate.get("features") or {}),
            ITEM_ID: item_id,
            INITIAL_SCORE: candidate["initial_score"],
        }
        for categorical in declaration.candidate_categorical:
            feature[categorical.name].bytes_list.value.extend(_strings(known, categorical))
        for dense in declaration.candidate_dense:
            feature[dense.name].float_list.value.append(known.get(dense.name, NAN))
        feedback = candidate.get("feedback") or {}
        relevance = max(
            (
                rule.grade
                for rule in declaration.label.grades
                if feedback.get(rule.feedback, NAN) >= rule.at_least
            ),
            default=0,
        )
        negative = relevance == 0 and any(
            feedback.get(rule.feedback, NAN) <= rule.at_most for rule in declaration.label.negatives
        )
        feature["initial_rank"].int64_list.value.append(rank)
        feature["relevance"].float_list.value.append(relevance)
        feature["negative"].float_list.value.append(negative)


def _strings(known: dict[str, Any], categorical: Any) -> list[bytes]:
    value = known.get(categorical.name)
    values = [] if value is None else value if isinstance(value, list) else [str(value)]
    padded = [each.encode() for each in values[: categorical.width]]
    return padded + [b""] * (categorical.width - len(padded))
