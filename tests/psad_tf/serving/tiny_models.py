"""SavedModels small enough to make one for each test: y = factor * x, and the strings sent back."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2


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
