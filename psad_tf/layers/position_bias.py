"""What a slot does to the value of whatever stands in it."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

_SPEED = 10.0  # the parameters have to go several units in a few hundred steps of a small learning rate
_START = 2.0


@tf.keras.utils.register_keras_serializable("psad_tf")
class PositionBias(tf.keras.layers.Layer):
    """From the logit of an item's worth to the expected gain of showing it at a slot.

        examination   v_l = sigmoid(t_l) sigmoid(logit)      the slot is examined, and the item liked
        additive      v_l = sigmoid(logit + t_l)
        none          v_l = sigmoid(logit)

    with t_l learned for each slot; slots from `slots` on share the last.

    Args:
        slots: Number of slots that have a parameter of their own.
        kind: One of the three.
        **kwargs: Of `tf.keras.layers.Layer`.

    Reference: Richardson, Dominowska and Ragno, "Predicting Clicks", WWW 2007, for the examination.
    """

    def __init__(
        self,
        slots: int,
        kind: Literal["examination", "additive", "none"] = "examination",
        **kwargs: object,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots: must be at least 1, got {slots}")
        if kind not in ("examination", "additive", "none"):
            raise ValueError(f"kind: must be examination, additive or none, got {kind!r}")
        super().__init__(**kwargs)
        self.slots = slots
        self.kind = kind

    def build(self, input_shape: object) -> None:
        if self.kind != "none":
            start = _START / _SPEED if self.kind == "examination" else 0.0
            self.slot_bias = self.add_weight(
                "slot_bias", shape=(self.slots,), initializer=tf.keras.initializers.Constant(start)
            )
        super().build(input_shape)

    def call(self, logits: tf.Tensor, start: int | tf.Tensor = 0) -> tf.Tensor:
        """Values float32 of `logits` [batch, s] or [batch, s, n] of the s slots from `start` on."""
        logits = tf.cast(logits, tf.float32)
        if self.kind == "none":
            return tf.sigmoid(logits)
        slots = tf.minimum(start + tf.range(logits.shape[1]), self.slots - 1)
        bias = _SPEED * tf.cast(tf.gather(self.slot_bias, slots), tf.float32)  # [s]
        bias = tf.reshape(bias, [-1] + [1] * (logits.shape.rank - 2))
        if self.kind == "additive":
            return tf.sigmoid(logits + bias)
        return tf.sigmoid(bias) * tf.sigmoid(logits)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "slots": self.slots, "kind": self.kind}
