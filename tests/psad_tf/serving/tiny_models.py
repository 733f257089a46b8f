"""SavedModels small enough to make one for each test: y = factor * x, and the strings sent back."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import input_pb2, predict_pb2

from psad_tf.export.examples import parse_examples, split_lists
from psad_tf.serving.client.conversation import ModelChoice, examples_request
from psad_tf.serving.contract import LIMITS_FILE, Limits


class Scale(tf.Module):
    """Signatures: `serving_default` (x float [batch, n], tag string [batch]) and `lists` (examples)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = tf.Variable(factor)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32, name="x"),
            tf.TensorSpec([None], tf.string, name="tag"),
        ]
    )
    def scale(self, x: tf.Tensor, tag: tf.Tensor) -> dict[str, tf.Tensor]:
        """y = factor * x; the strings come back."""
        return {"y": self.factor * x, "echo": tf.identity(tag)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def parse(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Numbers from text; text that is no number is an error inside the graph."""
        return {"number": self.factor * tf.strings.to_number(examples)}


def write_model(base_path: pathlib.Path, version: int, factor: float | None = None) -> pathlib.Path:
    """Writes a version; y = factor * x, factor being the version number unless given."""
    module = Scale(float(version) if factor is None else factor)
    path = base_path / str(version)
    aside = base_path / f"{version}.tmp"
    tf.saved_model.save(
        module, str(aside), signatures={"serving_default": module.scale, "lists": module.parse}
    )
    aside.rename(path)
    return path


def scale_request(
    values: object = ((1.0, 2.0),), *, model: str = "scale", version: int | None = None, signature: str = ""
) -> predict_pb2.PredictRequest:
    """A request on `serving_default`."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    x = np.array(values, np.float32)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    request.inputs["tag"].CopyFrom(tf.make_tensor_proto(np.array([b"t"] * len(x), object)))
    return request


def parse_request(texts: Sequence[str | bytes], model: str = "scale") -> predict_pb2.PredictRequest:
    """A request on `lists`."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "lists"
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(np.array(texts, object)))
    return request


class Lists(tf.Module):
    """A model with a reranker's signatures that tells what it was given.

    `scores` are the candidates' `initial_score`; `width` and `together` are the candidates and the lists that
    the graph was run on; `history` counts a list's past interactions.
    """

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 1], tf.string, name="item_id"),
            tf.TensorSpec([None, None, 1], tf.string, name="history_item_id"),
            tf.TensorSpec([None, None], tf.float32, name="initial_score"),
        ]
    )
    def rank(
        self, item_id: tf.Tensor, history_item_id: tf.Tensor, initial_score: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Tells what it was given."""
        lists, candidates = tf.unstack(tf.shape(initial_score))
        return {
            "scores": initial_score,
            "item_ids": item_id[..., 0],
            "history": tf.reduce_sum(tf.cast(history_item_id[..., 0] != "", tf.int32), 1),
            "width": tf.fill([lists], candidates),
            "together": tf.fill([lists], lists),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def rank_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The same for serialized lists; one that does not parse is an error."""
        contexts, candidates = split_lists(examples, LIMITS)
        raw = parse_examples(
            contexts,
            candidates,
            {"history_item_id": tf.io.FixedLenSequenceFeature([1], tf.string, True, default_value="")},
            {
                "item_id": tf.io.FixedLenFeature([1], tf.string, ""),
                "initial_score": tf.io.FixedLenFeature([], tf.float32, math.nan),
            },
        )
        sizes = tf.shape(candidates)
        item_ids = tf.reshape(raw["item_id"], [*tf.unstack(sizes), 1])
        return self.rank(item_ids, raw["history_item_id"], tf.reshape(raw["initial_score"], sizes))


LIMITS = Limits(max_candidates=40, history_length=3)


def write_lists_model(base_path: pathlib.Path, version: int = 1) -> pathlib.Path:
    """Writes a version of `Lists`, of up to 40 candidates and 3 past interactions."""
    module = Lists()
    path = base_path / str(version)
    signatures = {"serving_default": module.rank, "rerank_examples": module.rank_examples}
    tf.saved_model.save(module, str(path), signatures=signatures)
    (path / LIMITS_FILE).parent.mkdir(exist_ok=True)
    (path / LIMITS_FILE).write_text(json.dumps(dataclasses.asdict(LIMITS)))
    return path


def lists_request(candidates: int, history: int = 2, lists: int = 1) -> predict_pb2.PredictRequest:
    """Lists with item ids "0", "1", ... and scores 0, 1, ..., as tensors."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "lists"
    ids = np.tile(np.array([str(i).encode() for i in range(candidates)], object), (lists, 1))
    for name, values in {
        "item_id": ids[..., np.newaxis],
        "history_item_id": np.full((lists, history, 1), b"h", object),
        "initial_score": np.tile(np.arange(candidates, dtype=np.float32), (lists, 1)),
    }.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


def lists_examples(*candidates: int) -> predict_pb2.PredictRequest:
    """The same as serialized lists of so many candidates each."""
    serialized = []
    for count in candidates:
        record = input_pb2.ExampleListWithContext()
        record.context.features.feature["history_item_id"].bytes_list.value.extend([b"h", b"h"])
        for index in range(count):
            features = record.examples.add().features.feature
            features["item_id"].bytes_list.value.append(str(index).encode())
            features["initial_score"].float_list.value.append(index)
        serialized.append(record.SerializeToString())
    return examples_request(ModelChoice("lists"), serialized)
