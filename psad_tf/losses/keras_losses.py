"""The losses as Keras losses, for any model that scores the candidates of a list."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from psad_tf.losses.gains import gains
from psad_tf.losses.listwise import listwise_loss
from psad_tf.losses.plackett_luce import plackett_luce_loss
from psad_tf.losses.pointwise import pointwise_loss
from psad_tf.losses.shown_list import shown_list_loss


class _ListLoss(tf.keras.losses.Loss):
    """A loss whose value is a mean over the batch already."""

    default_name: str

    def __init__(self, name: str | None = None, reduction: str = tf.keras.losses.Reduction.SUM) -> None:
        super().__init__(reduction=reduction, name=name or self.default_name)


@tf.keras.utils.register_keras_serializable("psad_tf")
class ListwiseLoss(_ListLoss):
    """`listwise_loss` of scores; labels below 0 mark candidates that do not count.

    >>> loss = ListwiseLoss()(tf.constant([[1.0, 0.0, -1.0]]), tf.constant([[0.0, 0.0, 9.0]]))
    >>> round(float(loss), 4)
    0.6931
    """

    default_name = "listwise_loss"

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Labels [batch, n], scores [batch, n] -> a scalar."""
        return listwise_loss(y_pred, tf.maximum(y_true, 0.0), where=y_true >= 0.0)


@tf.keras.utils.register_keras_serializable("psad_tf")
class PointwiseLoss(_ListLoss):
    """`pointwise_loss` of probabilities; labels below 0 mark candidates that do not count.

    >>> loss = PointwiseLoss()(tf.constant([[1.0, -1.0]]), tf.constant([[0.5, 0.1]]))
    >>> round(float(loss), 4)
    0.6931
    """

    default_name = "pointwise_loss"

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Labels [batch, n], probabilities [batch, n] -> a scalar."""
        return pointwise_loss(y_pred, y_true, where=y_true >= 0.0)


@tf.keras.utils.register_keras_serializable("psad_tf")
class ShownListLoss(_ListLoss):
    """`shown_list_loss` of values, slot by slot; labels below 0 mark slots that showed nothing.

    Args:
        max_label: The highest grade, whose gain is 1.
        **options: `name` and `reduction`.

    >>> loss = ShownListLoss(max_label=1.0)(tf.constant([[1.0, -1.0]]), tf.constant([[0.5, 0.9]]))
    >>> round(float(loss), 4)
    0.6931
    """

    default_name = "shown_list_loss"

    def __init__(self, max_label: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.max_label = max_label

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Labels of what stood at each slot [batch, S], values [batch, S] -> a scalar."""
        return shown_list_loss(y_pred, gains(tf.maximum(y_true, 0.0), self.max_label), where=y_true >= 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_label": self.max_label}


@tf.keras.utils.register_keras_serializable("psad_tf")
class PlackettLuceLoss(_ListLoss):
    """`plackett_luce_loss` of scores against an order; -1 marks empty slots.

    Every score counts as a candidate: give padding a very low one.

    >>> loss = PlackettLuceLoss()(tf.constant([[2, 0]]), tf.constant([[0.0, 0.0, 0.0]]))
    >>> round(float(loss), 4)
    0.8959
    """

    default_name = "plackett_luce_loss"

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Orders int32 [batch, L], scores [batch, n] -> a scalar."""
        return plackett_luce_loss(y_pred, tf.cast(y_true, tf.int32))
