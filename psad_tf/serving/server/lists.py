"""The lists in a request for rankings: how much they ask for, and how they are padded to share a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2

from psad_tf.features import HISTORY_PREFIX, ITEM_ID
from psad_tf.serving.contract import EXAMPLES, MISSING_NUMBER, MISSING_RANK, MISSING_TEXT, Limits
from psad_tf.serving.serialized_lists import SerializedLists
from psad_tf.serving.server.status import invalid_argument

Tensors = Mapping[str, tensor_pb2.TensorProto]
_MISSING = {tf.string: MISSING_TEXT, tf.float32: MISSING_NUMBER, tf.int64: MISSING_RANK, tf.bool: False}


class Extent(NamedTuple):
    """The size of a request.

    Attributes:
        lists: How many lists.
        candidates: Of the longest list.
    """

    lists: int
    candidates: int


@dataclasses.dataclass(frozen=True)
class ListInputs:
    """The inputs of one signature of a reranker.

    Args:
        limits: Of the model.
        candidates: Inputs of a value per candidate, [lists, candidates, ...].
        history: Inputs of a value per past interaction, [lists, interactions, ...].
    """

    limits: Limits
    candidates: tuple[str, ...]
    history: tuple[str, ...]

    @classmethod
    def of(cls, specs: Mapping[str, tf.TensorSpec], limits: Limits | None) -> ListInputs | None:
        """Reads the shapes of a signature's inputs; None where it is not a reranker's."""
        if limits is None or not (specs.keys() == {EXAMPLES} or ITEM_ID in specs):
            return None
        long = [name for name, spec in specs.items() if spec.shape.rank >= 2 and spec.shape[1] is None]
        of_history = tuple(name for name in long if name.startswith(HISTORY_PREFIX))
        return cls(limits, tuple(name for name in long if name not in of_history), of_history)

    def extent(self, inputs: Tensors) -> Extent:
        """Lists and candidates of a request whose tensors have the types and ranks of the signature.

        Raises:
            ServingError: INVALID_ARGUMENT: tensors disagree (broadcasting them would mix lists up), or all
                of it, padded to the longest list, is more than the model takes at once.
        """
        lists = _agreed(inputs, list(inputs), 0, "lists")
        if self.candidates:
            candidates = _agreed(inputs, self.candidates, 1, "candidates")
            _agreed(inputs, self.history, 1, "past interactions")
        else:
            candidates = max(map(_count_candidates, inputs[EXAMPLES].string_val), default=0)
        max_length = max(candidates, self.limits.history_length)
        if lists * max_length > self.limits.max_slots:
            raise invalid_argument(
                f"{lists} lists, each padded to {max_length} candidates or past interactions, are more than "
                f"{self.limits.max_slots} in all: send fewer lists in a request"
            )
        return Extent(lists, candidates)

    def size_for(self, extent: Extent) -> int | None:
        """The number of candidates to pad a request to; None for a list that is too long."""
        return next((size for size in self.limits.list_sizes if size >= extent.candidates), None)

    def padded(self, tensors: Mapping[str, tf.Tensor], candidates: int) -> dict[str, tf.Tensor]:
        """Pads candidates to a number, and cuts or pads histories to the model's length, in a graph."""
        lengths = dict.fromkeys(self.candidates, candidates) | dict.fromkeys(
            self.history, self.limits.history_length
        )
        return {
            name: _fit(value, lengths[name]) if name in lengths else value for name, value in tensors.items()
        }


def _fit(values: tf.Tensor, length: int) -> tf.Tensor:
    """Cuts or pads axis 1 to `length`, with what a missing value is."""
    values = values[:, :length]
    paddings = [[0, 0], [0, length - tf.shape(values)[1]]] + [[0, 0]] * (values.shape.rank - 2)
    return tf.pad(values, paddings, constant_values=_MISSING[values.dtype])


def _agreed(inputs: Tensors, names: Sequence[str], axis: int, what: str) -> int:
    sizes = {name: inputs[name].tensor_shape.dim[axis].size for name in names}
    if len(set(sizes.values())) > 1:
        fewest, most = (choose(sorted(sizes), key=sizes.__getitem__) for choose in (min, max))
        raise invalid_argument(
            f"inputs disagree about the number of {what}: {fewest!r} has {sizes[fewest]}, {most!r} has "
            f"{sizes[most]}"
        )
    return next(iter(sizes.values()), 0)


def _count_candidates(serialized: bytes) -> int:
    try:
        return len(SerializedLists.FromString(serialized).examples)
    except DecodeError:
        return 0  # the graph says what is wrong with it
