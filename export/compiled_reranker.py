"""The Keras model compiled by XLA, on lists and batches padded to a few sizes."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.data.encoder import FeatureEncoder
from psad_tf.export.served_layers import ServedLayers
from psad_tf.export.served_reranker import Scored
from psad_tf.features import INITIAL_RANK
from psad_tf.models.student import Reranker
from psad_tf.serving.contract import Limits

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class CompiledReranker(tf.Module):
    """Scores requests by the model as it is trained, which XLA fuses itself; strings stay outside.

    Args:
        encoder: Of the run.
        reranker: Of the run.
        layers: Its weights.
        limits: How much the graph takes at once.
    """

    def __init__(
        self, encoder: FeatureEncoder, reranker: Reranker, layers: ServedLayers, limits: Limits
    ) -> None:
        super().__init__(name="compiled_reranker")
        self.encoder = encoder
        self._limits = limits

        def score(encoded: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            with layers.in_graph(reranker):
                return reranker(encoded)

        self._score = tf.function(score, jit_compile=True, autograph=False)

    def __call__(self, raw: Mapping[str, tf.Tensor], blocked: tf.Tensor | None) -> Scored:
        """Scores a request; see `ServedReranker`."""
        encoded = dict(self.encoder(raw))
        present = encoded["mask"]
        if blocked is not None:
            encoded["mask"] = present & ~blocked
        scored = self._padded_score(encoded)
        return Scored(present, encoded["mask"], scored["scores"], scored["probabilities"])

    def _padded_score(self, encoded: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Scores lists padded to one of a few sizes, and cuts the padding off again."""
        lists, length = tf.unstack(tf.shape(encoded["mask"]))
        more_lists = _next_size(lists, _BATCH_SIZES) - lists
        more_candidates = _next_size(length, self._limits.list_sizes) - length
        candidate = {feature.name for feature in self.encoder.declaration.candidate_categorical}
        candidate |= {"candidate_dense", "mask", INITIAL_RANK}
        padded = {}
        for name, value in encoded.items():
            paddings = [[0, 0]] * value.shape.rank
            paddings[0] = [0, more_lists]
            if name in candidate:
                paddings[1] = [0, more_candidates]
            padded[name] = tf.pad(value, paddings)
        scored = self._score(padded)
        return {name: scored[name][:lists, :length] for name in ("scores", "probabilities")}


def _next_size(size: tf.Tensor, sizes: tuple[int, ...]) -> tf.Tensor:
    """The smallest of `sizes` that is at least `size`; above the largest, its next multiple."""
    steps = tf.constant(sizes)
    index = tf.searchsorted(steps, size[tf.newaxis])[0]
    multiple = -(-size // sizes[-1]) * sizes[-1]
    return tf.where(index < len(sizes), tf.gather(steps, tf.minimum(index, len(sizes) - 1)), multiple)
