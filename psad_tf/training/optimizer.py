"""Adam with a learning rate of its own for embedding tables."""

from __future__ import annotations

import math

import tensorflow as tf

from psad_tf.compat import adam_moments
from psad_tf.config import OptimizerConfig

EMBEDDING_TABLE = "embedding_table"


class WarmUpAndDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise, then constant or a fall along half a cosine.

    rate * min(1, (step + 1) / warmup_steps) * (1 + cos(pi * min(1, step / decay_steps))) / 2; the last
    factor is left out when `decay_steps` is 0.

    Args:
        rate: The largest rate.
        warmup_steps: Steps of the rise; 0 for none.
        decay_steps: Step at which the rate is 0; 0 keeps it constant.

    Reference: Loshchilov and Hutter, "SGDR", ICLR 2017, for the cosine.

    >>> [round(float(WarmUpAndDecay(1.0, 0, 100)(step)), 2) for step in (0, 50, 100, 900)]
    [1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, rate: float, warmup_steps: int, decay_steps: int = 0) -> None:
        self.rate = rate
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rate = self.rate * tf.minimum(1.0, (step + 1.0) / max(self.warmup_steps, 1))
        if not self.decay_steps:
            return rate
        return rate * 0.5 * (1.0 + tf.cos(math.pi * tf.minimum(1.0, step / self.decay_steps)))

    def get_config(self) -> dict[str, float]:
        return {"rate": self.rate, "warmup_steps": self.warmup_steps, "decay_steps": self.decay_steps}


class TwoRateAdam(tf.keras.optimizers.Adam):
    """Adam in which variables named `embedding_table*` learn at another rate.

    One optimizer rather than two in TFRS's `CompositeOptimizer`: that one takes legacy Keras optimizers
    only, and loss scaling and clipping by the global norm need to see every gradient at once.

    A table whose gradient is sparse is updated lazily: only the rows that a batch touched change, with
    their moments, so a step's cost does not grow with the vocabulary.

    Args:
        embedding_ratio: Rate of the tables over that of the other variables.
        **options: Of `tf.keras.optimizers.Adam`.
    """

    def __init__(self, embedding_ratio: float = 1.0, **options: object) -> None:
        super().__init__(**options)
        self.embedding_ratio = embedding_ratio

    def apply_gradients(self, *arguments: object, **options: object) -> object:
        """As Keras' own; what all variables share is computed once per step, not once per variable."""
        self._shared: tuple[tf.Tensor, ...] | None = None
        return super().apply_gradients(*arguments, **options)

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """One Adam step: v <- v - rate * m_hat / (sqrt(v_hat) + epsilon)."""
        if self._shared is None:
            step = tf.cast(self.iterations + 1, tf.float32)
            rate = tf.convert_to_tensor(self.learning_rate)  # read once
            betas = tf.constant(self.beta_1), tf.constant(self.beta_2)
            powers = (tf.pow(beta, step) for beta in betas)
            self._shared = rate, rate * self.embedding_ratio, *betas, *powers, tf.constant(self.epsilon)
        plain_rate, table_rate, *shared = (tf.cast(each, variable.dtype) for each in self._shared)
        beta_1, beta_2, power_1, power_2, epsilon = shared
        rate = table_rate if EMBEDDING_TABLE in variable.name else plain_rate
        first, second = adam_moments(self, variable)
        if not isinstance(gradient, tf.IndexedSlices):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=power_1,
                beta2_power=power_2,
                lr=rate,
                beta1=beta_1,
                beta2=beta_2,
                epsilon=epsilon,
                grad=gradient,
            )
            return
        rows, values = gradient.indices, gradient.values
        new_first = tf.gather(first, rows) * beta_1 + values * (1.0 - beta_1)
        new_second = tf.gather(second, rows) * beta_2 + tf.square(values) * (1.0 - beta_2)
        first.scatter_update(tf.IndexedSlices(new_first, rows))
        second.scatter_update(tf.IndexedSlices(new_second, rows))
        rate = rate * tf.sqrt(1.0 - power_2) / (1.0 - power_1)
        variable.scatter_sub(tf.IndexedSlices(rate * new_first / (tf.sqrt(new_second) + epsilon), rows))

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "embedding_ratio": self.embedding_ratio}


def make_optimizer(
    config: OptimizerConfig, mixed_precision: str = "float32"
) -> tf.keras.optimizers.Optimizer:
    """The optimizer of a configuration; with float16 it also scales the loss."""
    optimizer = TwoRateAdam(
        embedding_ratio=config.embedding_learning_rate / config.learning_rate,
        learning_rate=WarmUpAndDecay(config.learning_rate, config.warmup_steps, config.decay_steps),
        global_clipnorm=config.clip_norm,
        weight_decay=config.weight_decay or None,
        jit_compile=False,  # the whole train step is compiled instead
    )
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma", "position_bases", "scale"])
    if mixed_precision == "float16":
        return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer
