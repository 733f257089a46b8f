"""Small raw logs for the Beam job's tests, and a reader of its lists."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import pickle
import random
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline
from tensorflow_serving.apis import input_pb2

from psad_tf.beam.dead_letters import COUNTS, DEAD
from psad_tf.data.records import read_json_lines
from psad_tf.features import (
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
    HistoryDeclaration,
    LabelDeclaration,
    LabelRule,
    NegativeRule,
)

TestPipeline.__test__ = False  # it is not a test
START = 1_600_000_000
DECLARATION = FeatureDeclaration(
    context_categorical=tuple(
        map(CategoricalFeature, ("user_id", "segment", "device", "request_hour", "request_weekday"))
    ),
    context_dense=(DenseFeature("age"),),
    history=HistoryDeclaration(
        5,
        (CategoricalFeature("item_id"), CategoricalFeature("genres", width=2)),
        (DenseFeature("age_seconds", "log1p_standardize"), DenseFeature("rating")),
    ),
    candidate_categorical=(
        CategoricalFeature("item_id"),
        CategoricalFeature("genres", width=2),
        CategoricalFeature("badge"),
    ),
    candidate_dense=(DenseFeature("initial_score"), DenseFeature("price"), DenseFeature("year")),
    label=LabelDeclaration(
        (LabelRule("rating", 4, 1), LabelRule("rating", 5, 2), LabelRule("bought", 1, 3)),
        (NegativeRule("rating", 1),),
    ),
    max_candidates=10,
)


def pipeline() -> TestPipeline:
    """A test pipeline on the runner in Python."""
    return TestPipeline(runner=FnApiRunner())


class Outputs(NamedTuple):
    """What a transform gave in a test pipeline of its own: elements by output, dead letters and counts."""

    elements: dict[str, list[Any]]
    letters: list[dict[str, Any]]
    counts: Counter[str]


def outputs(transform: beam.PTransform, folder: Path, sent: Any = None) -> Outputs:
    """Runs a transform on what is sent through it, or from the start of a pipeline.

    Args:
        transform: The transform; it may have several outputs.
        folder: A folder for what it gives.
        sent: A list, or a tuple of lists where it takes several PCollections.
    """
    kept = Path(tempfile.mkdtemp(dir=folder))
    test_pipeline = pipeline()
    start: Any = test_pipeline
    if isinstance(sent, tuple):
        start = tuple(test_pipeline | f"Sent {n}" >> beam.Create(each) for n, each in enumerate(sent))
    elif sent is not None:
        start = test_pipeline | beam.Create(sent)
    made = start | "Tested" >> transform
    if isinstance(made, beam.PCollection):
        named = {"": made}
    else:
        named = {tag or made._main_tag: made[tag] for tag in (made._main_tag, *made._tags)}
    for name, each in named.items():
        (kept / name).mkdir(exist_ok=True)
        each | f"Keep {name}" >> beam.Map(_keep, kept / name)
    result = test_pipeline.run()
    result.wait_until_finish()
    counts = Counter(
        {each.key.metric.name: each.result for each in result.metrics().query()["counters"]
         if each.key.metric.namespace == COUNTS}
    )  # fmt: skip
    elements = {
        name: [pickle.loads(path.read_bytes()) for path in (kept / name).iterdir() if path.is_file()]
        for name in named
    }
    letters = [json.loads(each.partition(b"\0")[2]) for each in elements.pop(DEAD, [])]
    return Outputs(elements, letters, counts)


def _keep(element: Any, folder: Path) -> None:
    if isinstance(element, tuple) and len(element) == 2 and not isinstance(element[1], bytes | str | int):
        element = (element[0], list(element[1]))
    (folder / uuid.uuid4().hex).write_bytes(pickle.dumps(element))


def impression(number: int, user: int, time: int, items: Iterable[int], seed: int = 0) -> dict[str, Any]:
    """An impression whose scores fall and whose feedback is random."""
    rng = random.Random(f"{seed} {number}")
    candidates = []
    for rank, item in enumerate(items):
        features: dict[str, Any] = {"price": round(rng.uniform(1, 9), 2)}
        if rng.random() < 0.3:
            features["badge"] = "new"
        candidates.append(
            {
                "item_id": f"item-{item}",
                "initial_score": 1.0 - rank / 16,
                "feedback": {"rating": rng.randint(1, 5)},
                "features": features,
            }
        )
    return {
        "request_id": f"request-{number}",
        "user_id": f"user-{user}",
        "time": time,
        "context": {"device": rng.choice(["phone", "desk"])},
        "candidates": candidates,
    }


def records(
    lists: int = 40, users: int = 7, items: int = 25, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Raw records by kind; some users and items have no row, and some users no history."""
    rng = random.Random(seed)
    impressions = []
    for number in range(lists):
        shown = rng.sample(range(items), rng.randint(2, 6))
        impressions.append(impression(number, rng.randrange(users), START + 997 * number, shown, seed))
    interactions = [
        {
            "user_id": f"user-{rng.randrange(users - 1)}",
            "item_id": f"item-{rng.randrange(items)}",
            # Unequal times for each user: an order that every implementation agrees on.
            "time": START + 997 * lists * number // (6 * lists) + 1,
            "feedback": {"rating": rng.randint(1, 5)},
        }
        for number in range(6 * lists)
    ]
    genres = ["war", "drama", "Komödie", "документ"]
    return {
        "impressions": impressions,
        "interactions": interactions,
        "users": [
            {"user_id": f"user-{user}", "age": 20 + user, "segment": "ab"[user % 2]}
            for user in range(users - 1)
        ],
        "items": [
            {"item_id": f"item-{item}", "genres": rng.sample(genres, rng.randint(1, 3)), "year": 1950 + item}
            for item in range(items - 1)
        ],
    }


def write_folder(folder: Path, data: dict[str, list[Any]]) -> Path:
    """Writes a raw data folder; lists of bytes are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, rows in data.items():
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (folder / f"{kind}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    (folder / "features.json").write_text(json.dumps(DECLARATION.to_dict()))
    return folder


def read_lists(folder: str | os.PathLike[str], split: str = "*") -> dict[str, Any]:
    """The lists of an output folder by request id."""
    lists = {}
    for path in sorted(glob.glob(os.path.join(folder, split, "part-*.gz"))):
        for data in tf.data.TFRecordDataset(path, compression_type="GZIP").as_numpy_iterator():
            parsed = input_pb2.ExampleListWithContext.FromString(data)
            lists[values(parsed.context, "request_id")[0]] = parsed
    return lists


def values(example: Any, name: str) -> list[Any]:
    """The values of one feature; strings are decoded."""
    feature = example.features.feature[name]
    found = list(getattr(feature, feature.WhichOneof("kind")).value)
    return [value.decode() if isinstance(value, bytes) else value for value in found]


def dead_letters(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Every dead letter of an output folder."""
    paths = sorted(glob.glob(os.path.join(folder, "dead_letters", "*")))
    return [letter for path in paths for letter in read_json_lines(path)]


def digests(folder: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of every file of an output folder but the manifest, which tells when it was made."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if name != "manifest.json":
                found[os.path.relpath(path, folder)] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found
