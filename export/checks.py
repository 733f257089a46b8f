"""What the serving graph itself refuses, whoever serves it: too much at once, tensors that disagree."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.features import HISTORY_PREFIX, ITEM_ID
from psad_tf.serving.contract import Limits


def check_size(sizes: tf.Tensor, limits: Limits) -> list[tf.Operation]:
    """Assertions that a batch is no more than a model takes at once.

    Args:
        sizes: int32 [2], how many lists, and how many candidates the longest has.
        limits: Of the model.
    """
    slots = tf.reduce_prod(tf.maximum(sizes, [0, limits.history_length]))
    return [
        tf.debugging.Assert(
            sizes[1] <= limits.max_candidates, [f"a list has more than {limits.max_candidates} candidates"]
        ),
        tf.debugging.Assert(
            slots <= limits.max_slots,
            [f"the lists, padded, are more than {limits.max_slots} candidates: send fewer in a request"],
        ),
    ]


def check_agreement(raw: Mapping[str, tf.Tensor]) -> tf.Operation:
    """An assertion that the tensors of a request are of the same lists, candidates and past interactions.

    Broadcasting would apply one user's values to another. All sizes are compared at once.

    Args:
        raw: Inputs of `serving_default` or `rerank_masked`.
    """
    shape = tf.shape(raw[ITEM_ID])
    lists, candidates = shape[:1], shape[1:2]
    past = tf.shape(raw[HISTORY_PREFIX + ITEM_ID])[1:2]
    names: list[str] = []
    found, expected = [], []
    for name, values in raw.items():
        names += [name] * values.shape.rank
        found.append(tf.shape(values))
        second = past if name.startswith(HISTORY_PREFIX) else candidates
        sizes = [lists, second] if values.shape.rank > 1 and values.shape[1] is None else [lists]
        expected += [*sizes, values.shape[len(sizes) :]]
    sizes, expected = tf.concat(found, 0), tf.concat(expected, 0)
    agrees = tf.equal(sizes, expected)
    wrong = tf.math.top_k(tf.cast(~agrees, tf.int32)).indices  # the first, [1]
    said = ["input", tf.gather(names, wrong), "disagrees with the item ids; a size of it, and theirs:"]
    said += [tf.gather(sizes, wrong), tf.gather(expected, wrong)]
    return tf.debugging.Assert(tf.reduce_all(agrees), said)
