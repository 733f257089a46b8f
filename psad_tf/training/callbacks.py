"""What a run does between its steps and epochs, as Keras callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.evaluation.evaluate import SELECTION_METRIC, Evaluator
from psad_tf.files import write_json
from psad_tf.training.run_folder import restore_checkpoint

Logs = dict[str, Any] | None


class ExactResume(tf.keras.callbacks.Callback):
    """Saves a run so that it resumes bit for bit, also inside an epoch.

    A checkpoint holds the model, its optimizer, the means of the epoch so far, the place in the data and
    what else is tracked; `tf.keras.callbacks.BackupAndRestore` has neither the means nor what callbacks
    count. It has to be the last of the callbacks: what the others do when an epoch ends is then saved.

    Args:
        model: Compiled.
        folder: Of the checkpoints.
        steps_per_epoch: Batches of an epoch.
        every_steps: Save every so many steps beside the end of each epoch; 0 saves at the ends only.
        max_to_keep: Checkpoints kept.
        tracked: What is saved beside the model, by name.

    Attributes:
        epoch: Epochs that are over.
        batch: Steps of the present epoch that are over.
        latest: Path of the last checkpoint, None before the first.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        folder: str,
        steps_per_epoch: int,
        every_steps: int = 0,
        max_to_keep: int = 2,
        **tracked: Any,
    ) -> None:
        super().__init__()
        self._steps_per_epoch = steps_per_epoch
        self._every = every_steps
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._batch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._means: list[Any] = []
        progress = tf.train.Checkpoint(
            model=model, optimizer=model.optimizer, epoch=self._epoch, batch=self._batch, **tracked
        )
        self._manager = tf.train.CheckpointManager(progress, folder, max_to_keep=max_to_keep)

    @property
    def epoch(self) -> int:
        return int(self._epoch.numpy())

    @property
    def batch(self) -> int:
        return int(self._batch.numpy())

    @property
    def latest(self) -> str | None:
        return self._manager.latest_checkpoint

    def restore(self, folder: str) -> bool:
        """Goes to the latest checkpoint of a folder; false where there is none.

        Raises:
            InputError: The checkpoint is damaged, or of another model or optimizer.
        """
        found = tf.train.latest_checkpoint(folder)
        if found is not None:
            restore_checkpoint(found, self._manager.checkpoint, whole=True)
        return found is not None

    def on_train_begin(self, logs: Logs = None) -> None:
        self._means = [metric.get_weights() for metric in self.model.loss_terms.values()]

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        # Keras clears the metrics when an epoch begins; one that is resumed continues from its part.
        if self.batch:
            for metric, weights in zip(self.model.loss_terms.values(), self._means, strict=True):
                metric.set_weights(weights)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batch.assign_add(1)
        step = int(self.model.step.numpy())
        if self._every and step % self._every == 0 and self.batch < self._steps_per_epoch:
            self._manager.save(checkpoint_number=step)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._epoch.assign(epoch + 1)
        self._batch.assign(0)
        self.model.reset_metrics()
        self._manager.save(checkpoint_number=int(self.model.step.numpy()))


class StopOnDivergence(tf.keras.callbacks.Callback):
    """Stops the run at the first step whose loss or gradient is no finite number, or whose loss is too large.

    `tf.keras.callbacks.TerminateOnNaN` sees neither gradients nor a loss that explodes, and ends the run as
    if it were over.

    Args:
        max_loss: Above it the run is given up.
        loss_scaling: Steps whose float16 gradient overflows are left out, so the gradient is not looked at.
        diverged: Gives the error that stops the run, from the step's number and the terms.
    """

    def __init__(
        self, max_loss: float, loss_scaling: bool, diverged: Callable[[int, Mapping[str, float]], Exception]
    ) -> None:
        super().__init__()
        self._max_loss = max_loss
        self._loss_scaling = loss_scaling
        self._diverged = diverged

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        terms = self.model.loss_terms
        sound = float(terms["loss"].last.numpy()) <= self._max_loss  # false for NaN too
        if sound and (self._loss_scaling or np.isfinite(terms["gradient_norm"].last.numpy())):
            return
        values = {name: float(term.last.numpy()) for name, term in terms.items()}
        raise self._diverged(int(self.model.step.numpy()), values)


class Validation(tf.keras.callbacks.Callback):
    """Ranks the validation lists after each epoch and adds the metrics to the epoch's logs.

    `val_student_ndcg@10` and so on, beside `val_agreement`; callbacks after this one see them.

    Args:
        evaluator: Of the validation lists.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__()
        self._evaluator = evaluator
        self.metrics: dict[str, dict[str, float]] = {}
        self.agreement = float("nan")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        evaluation = self._evaluator.run()
        self.metrics = evaluation.means()
        self.agreement = float(np.nanmean(evaluation.agreement))
        if logs is not None:
            logs["val_agreement"] = self.agreement
            for ranker, each in self.metrics.items():
                logs |= {f"val_{ranker}_{metric}": value for metric, value in each.items()}


class KeepBest(tf.keras.callbacks.Callback):
    """Keeps the weights of the best epoch, and ends the run when none was better for some epochs.

    As `ModelCheckpoint` and `EarlyStopping` together, but what it counts can be saved and restored.

    Args:
        checkpoint: What is kept.
        folder: Where.
        monitor: The entry of the epoch's logs that is to be high.
        patience: Epochs without a better one that end the run; 0 never ends it.

    Attributes:
        state: To be saved with the run.
    """

    def __init__(self, checkpoint: tf.train.Checkpoint, folder: str, monitor: str, patience: int) -> None:
        super().__init__()
        self._manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=1)
        self._monitor = monitor
        self._patience = patience
        self._value = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.state = tf.train.Checkpoint(value=self._value, epoch=self._epoch)

    @property
    def epoch(self) -> int:
        """The best epoch, from 1."""
        return int(self._epoch.numpy())

    def is_over(self, epochs: int) -> bool:
        """Whether the patience has ended after so many epochs."""
        return self._patience > 0 and epochs - self.epoch >= self._patience

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        value = (logs or {})[self._monitor]
        if value > float(self._value.numpy()):
            self._value.assign(value)
            self._epoch.assign(epoch + 1)
            self._manager.save(checkpoint_number=epoch + 1)
        self.model.stop_training = self.is_over(epoch + 1)


class RunHistory(tf.keras.callbacks.Callback):
    """Writes an entry per epoch to a JSON file.

    Args:
        path: Of the file.
        validation: Comes before this callback.
        entries: Those of a run that is resumed.
    """

    def __init__(self, path: str, validation: Validation, entries: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__()
        self._path = path
        self._validation = validation
        self.entries = list(entries)
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.entries.append(
            {
                "epoch": epoch + 1,
                "losses": {name: float(term.result()) for name, term in self.model.loss_terms.items()},
                "valid": self._validation.metrics,
                "agreement": self._validation.agreement,
                "seconds": round(time.perf_counter() - self._started, 2),
            }
        )
        write_json(self._path, self.entries)


class Lines(tf.keras.callbacks.Callback):
    """Says what is compiled, which can take minutes, and a line per epoch.

    Args:
        history: Comes before this callback.
        epochs: Of the run.
        sizes: Padded list sizes, each of which is compiled for.
        compiled: Whether XLA compiles the step.
    """

    def __init__(self, history: RunHistory, epochs: int, sizes: Sequence[int], compiled: bool) -> None:
        super().__init__()
        self._history = history
        self._epochs = epochs
        self._sizes = sizes
        self._compiled = compiled
        self._started: float | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        if self._started is not None:
            return
        self._started = time.perf_counter()
        sizes = ", ".join(map(str, self._sizes))
        how = "Compiling the train step with XLA" if self._compiled else "Tracing the train step"
        print(f"{how}, once per list size ({sizes}); this can take minutes ...", flush=True)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._started:
            print(f"First step after {time.perf_counter() - self._started:.0f} s", flush=True)
            self._started = 0.0

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        entry = self._history.entries[-1]
        row = "  ".join(f"{name} {each[SELECTION_METRIC]:.4f}" for name, each in entry["valid"].items())
        print(
            f"epoch {epoch + 1}/{self._epochs}: loss {entry['losses']['loss']:.4f}  "
            f"validation NDCG@10  {row}  ({entry['seconds']:.1f} s)",
            flush=True,
        )
