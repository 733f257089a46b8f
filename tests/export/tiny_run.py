"""An untrained run and real-looking lists on a small feature declaration, made in about a second."""

from __future__ import annotations

import json
import pathlib
import random

import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from psad_tf.config import ModelConfig, TrainConfig
from psad_tf.data.list_folder import load_encoder
from psad_tf.features import CategoricalFeature, DenseFeature, FeatureDeclaration, HistoryDeclaration
from psad_tf.models.student import Reranker
from psad_tf.training.run_folder import build

DECLARATION = FeatureDeclaration(
    context_categorical=(CategoricalFeature("user_id"), CategoricalFeature("request_hour")),
    context_dense=(DenseFeature("age"),),
    history=HistoryDeclaration(
        length=4,
        categorical=(CategoricalFeature("item_id"), CategoricalFeature("genres", width=2)),
        dense=(DenseFeature("rating"), DenseFeature("age_seconds", "log1p_standardize")),
    ),
    candidate_categorical=(CategoricalFeature("item_id"), CategoricalFeature("genres", width=2)),
    candidate_dense=(DenseFeature("initial_score"), DenseFeature("year", "none")),
    max_candidates=12,
)
CONFIG = TrainConfig(model=ModelConfig(embedding_dim=8))
VALUES = {
    "user_id": [f"u{i}" for i in range(9)],
    "request_hour": [str(i) for i in range(24)],
    "item_id": [f"i{i}" for i in range(40)],
    "genres": ["drama", "war", "comedy"],
}


def make_run(folder: pathlib.Path, seed: int = 1, gain: float = 1.0) -> pathlib.Path:
    """Writes a run folder with random weights; scores grow with `gain`."""
    (folder / "vocabularies").mkdir(parents=True)
    for name, values in VALUES.items():
        (folder / "vocabularies" / f"{name}.txt").write_text("".join(f"{value}\n" for value in values))
    statistics = {key: {"mean": 0.5, "std": 2.0} for key in DECLARATION.dense_keys}
    for name, data in (
        ("statistics.json", statistics),
        ("features.json", DECLARATION.to_dict()),
        ("config.json", CONFIG.to_dict()),
        ("metrics.json", {"valid": {"ndcg@10": 0.5}}),
        ("lists_manifest.json", {"created": "2026-01-01T00:00:00+00:00", "lists": {"test": 6}}),
    ):
        (folder / name).write_text(json.dumps(data))
    tf.keras.utils.set_random_seed(seed)
    encoder = load_encoder(folder, DECLARATION)
    reranker = Reranker(DECLARATION, encoder.vocabulary_sizes, CONFIG.model)
    build(reranker, DECLARATION)
    for layer in (reranker.student.first, reranker.student.refine[-1].out):
        layer.kernel.assign(gain * layer.kernel)
    tf.train.Checkpoint(reranker=reranker).save(str(folder / "best" / "ckpt"))
    return folder


def make_list(seed: int, candidates: int = 6, history: int = 3) -> bytes:
    """A serialized ExampleListWithContext."""
    rng = random.Random(seed)
    record = input_pb2.ExampleListWithContext()

    def text(features: object, name: str, values: list[str]) -> None:
        features[name].bytes_list.value.extend(each.encode() for each in values)  # type: ignore[index]

    context = record.context.features.feature
    text(context, "request_id", [f"r{seed}"])
    text(context, "user_id", [rng.choice([*VALUES["user_id"], "stranger"])])
    text(context, "request_hour", [rng.choice(VALUES["request_hour"])])
    context["age"].float_list.value.append(rng.choice([float("nan"), 33.0]))
    text(context, "history_item_id", [rng.choice(VALUES["item_id"]) for _ in range(history)])
    text(context, "history_genres", [rng.choice(VALUES["genres"]) for _ in range(2 * history)])
    context["history_rating"].float_list.value.extend(rng.random() for _ in range(history))
    context["history_age_seconds"].float_list.value.extend(1e5 * rng.random() for _ in range(history))
    for rank, item in enumerate(rng.sample([*VALUES["item_id"], "new"], candidates)):
        example = record.examples.add().features.feature
        text(example, "item_id", [item])
        text(example, "genres", [rng.choice(VALUES["genres"]), ""])
        example["initial_score"].float_list.value.append(rng.random())
        example["year"].float_list.value.append(rng.choice([float("nan"), rng.random()]))
        example["initial_rank"].int64_list.value.append(rank)
        example["relevance"].float_list.value.append(float(rng.randrange(3)))
        example["negative"].float_list.value.append(0.0)
    return record.SerializeToString()


def make_lists(folder: pathlib.Path) -> pathlib.Path:
    """Writes a list folder whose test split has lists of several lengths."""
    lists = [make_list(seed, candidates, history) for seed, candidates, history in SIZES]
    (folder / "test").mkdir(parents=True)
    path = str(folder / "test" / "part-00000-of-00001.tfrecord.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for each in lists:
            writer.write(each)
    manifest = {"format": "psad-lists", "version": 1, "lists": {"test": len(lists)}, "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"declaration": DECLARATION.to_dict()}))
    return folder


SIZES = ((1, 6, 3), (2, 12, 0), (3, 1, 4), (4, 6, 9), (5, 9, 1), (6, 6, 4))
