"""What happens between the steps of training: checks, checkpoints, and lines that say how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from psad_tf.config import TrainConfig


class StepWatch(tf.keras.callbacks.Callback):
    """After each step: counts it, stops a run that diverges, writes checkpoints inside epochs.

    Args:
        config: The run's.
        batch: Counts the steps of the epoch; part of the checkpoint.
        checkpoints: Written to every `checkpoint_steps`.
        diverged: Gives the error that stops the run, from the step's number and the terms.
    """

    def __init__(
        self,
        config: TrainConfig,
        batch: tf.Variable,
        checkpoints: tf.train.CheckpointManager,
        diverged: Callable[[int, Mapping[str, float]], Exception],
    ) -> None:
        super().__init__()
        self.config = config
        self.batch = batch
        self.checkpoints = checkpoints
        self.diverged = diverged

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        # Keras clears the metrics when an epoch begins; one that is resumed goes on from its part.
        self._resumed = [metric.get_weights() for metric in self.model.loss_terms.values()]

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        for metric, weights in zip(self.model.loss_terms.values(), self._resumed, strict=True):
            metric.set_weights(weights)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self.batch.assign_add(1)
        step = int(self.model.step.numpy())
        if self._has_diverged():
            terms = {name: float(term.last.numpy()) for name, term in self.model.loss_terms.items()}
            raise self.diverged(step, terms)
        every = self.config.checkpoint_steps
        if every and step % every == 0:
            self.checkpoints.save(checkpoint_number=step)

    def _has_diverged(self) -> bool:
        terms = self.model.loss_terms
        if not float(terms["loss"].last.numpy()) <= self.config.largest_loss:
            return True
        # Loss scaling leaves out the steps whose float16 gradient overflows.
        scaled = self.config.mixed_precision == "float16"
        return not scaled and not np.isfinite(terms["gradient_norm"].last.numpy())


class Progress(tf.keras.callbacks.Callback):
    """Says what is compiled, and draws a bar of the epoch's steps where it is shown on a terminal.

    Keras' own bar counts epochs of one call of `fit`, and a run makes a call per epoch.

    Args:
        steps: Of an epoch.
        sizes: Padded list sizes, each of which is compiled for.
        compiled: Whether XLA compiles the step.
    """

    def __init__(self, steps: int, sizes: tuple[int, ...], compiled: bool) -> None:
        super().__init__()
        self._steps = steps
        self._sizes = sizes
        self._compiled = compiled
        self._started: float | None = None
        self._bar: tf.keras.utils.Progbar | None = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        if self._started is None:
            self._started = time.perf_counter()
            sizes = ", ".join(map(str, self._sizes))
            how = "Compiling the train step with XLA" if self._compiled else "Tracing the train step"
            print(f"{how}, once per list size ({sizes}); this can take minutes ...", flush=True)
        if sys.stdout.isatty():
            self._bar = tf.keras.utils.Progbar(self._steps, unit_name="step")

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._started:
            print(f"First step after {time.perf_counter() - self._started:.0f} s", flush=True)
            self._started = 0.0
        if self._bar is not None:
            self._bar.update(batch + 1, [("loss", (logs or {})["loss"])])
