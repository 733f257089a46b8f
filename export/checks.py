"""What the serving graph itself refuses, whoever serves it: too much at once, tensors that disagree."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.features import HISTORY_PREFIX, ITEM_ID
from psad_tf.serving.contract import Limits


def check_size(lists: tf.Tensor, candidates: tf.Tensor, limits: Limits) -> list[tf.Operation]:
    """Assertions that a batch is no more than a model takes at once.

    Args:
        lists: int32, how many.
        candidates: int32, of the longest.
        limits: Of the model.
    """
    slots = lists * tf.maximum(candidates, limits.history_length)
    return [
        tf.debugging.Assert(
            candidates <= limits.max_candidates, [f"a list has more than {limits.max_candidates} candidates"]
        ),
        tf.debugging.Assert(
            slots <= limits.max_slots,
            [f"the lists, padded, are more than {limits.max_slots} candidates: send fewer in a request"],
        ),
    ]


def check_agreement(raw: Mapping[str, tf.Tensor]) -> list[tf.Operation]:
    """Assertions that the tensors of a request are of the same lists, candidates and past interactions.

    Broadcasting would apply one user's values to another.

    Args:
        raw: Inputs of `serving_default` or `rerank_masked`.
    """
    like = {False: tf.shape(raw[ITEM_ID])[:2], True: tf.shape(raw[HISTORY_PREFIX + ITEM_ID])[:2]}
    lists = like[False][0]
    checks = []
    for name, values in raw.items():
        shape = tf.shape(values)
        if values.shape.rank >= 2 and values.shape[1] is None:
            expected = like[name.startswith(HISTORY_PREFIX)]
            agrees = tf.reduce_all(tf.equal(shape[:2], expected)) & tf.equal(shape[0], lists)
        else:
            agrees, expected = tf.equal(shape[0], lists), lists
        said = [f"input {name!r} disagrees with the item ids: its shape and theirs are", shape, expected]
        checks.append(tf.debugging.Assert(agrees, said))
    return checks
