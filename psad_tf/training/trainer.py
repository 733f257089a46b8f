"""Training: epochs of the compiled train step, validation, early stopping, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from psad_tf.config import TrainConfig
from psad_tf.data.batches import ListDataset
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.list_folder import check_lists, explain, list_files, load_encoder, load_manifest
from psad_tf.errors import InputError
from psad_tf.evaluation.evaluate import SELECTION_METRIC, Evaluator, worse_than_initial
from psad_tf.features import FeatureDeclaration, load_json
from psad_tf.files import put_in_place, write_json
from psad_tf.models.psad import PSAD
from psad_tf.training.callbacks import (
    ExactResume,
    KeepBest,
    Lines,
    RunHistory,
    StopOnDivergence,
    Validation,
)
from psad_tf.training.devices import check_placement
from psad_tf.training.distribution import WorkerLostError, check_same_start, is_chief, make_strategy
from psad_tf.training.optimizer import make_optimizer
from psad_tf.training.run_folder import check_run, restore_checkpoint, start_run


class TrainingDiverged(InputError):
    """The loss or its gradient is not a finite number any more, or the loss is above `max_loss`."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run made.

    Attributes:
        run_dir: The run folder.
        best_epoch: The epoch, from 1, whose weights were kept.
        metrics: Validation metrics of that epoch, {model: {metric: value}}.
        epochs: Epochs run.
    """

    run_dir: str
    best_epoch: int
    metrics: Mapping[str, Mapping[str, float]]
    epochs: int


def train(
    lists_dir: str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    config: TrainConfig,
    *,
    declaration: FeatureDeclaration | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = True,
) -> TrainResult:
    """Trains teacher and student together and writes a run folder.

    Works in `<run_dir>.partial` and renames it to `run_dir` at the end, so a run folder is always whole.
    A run that was stopped is continued with `resume`: weights, optimizer, ramp and place in the data are
    as they were, so it ends in the same weights as a run that was not stopped.

    Args:
        lists_dir: What `psad preprocess` wrote.
        run_dir: Folder to make.
        config: The run's configuration.
        declaration: The features; None takes the list folder's own.
        resume: Continue `<run_dir>.partial`.
        overwrite: Replace an existing run, or drop an unfinished one.
        verbose: Show a progress bar and a line an epoch.

    Returns:
        Where the run is and how good it is.

    Raises:
        InputError: The lists do not fit the declaration, are damaged, or have no positive label in a split;
            the run exists already; the unfinished run has another configuration or other lists.
        TrainingDiverged: The loss or its gradient became NaN or infinite, or the loss too large.
    """
    run_dir = os.fspath(run_dir)
    manifest = load_manifest(lists_dir)
    # Before anything else of TensorFlow: workers must meet when the program starts.
    strategy = make_strategy(config.distribution, config.jit_compile, config.data.batch_size)
    chief = is_chief(strategy)
    if declaration is None:
        declaration = FeatureDeclaration.from_dict(manifest.get("declaration"), f"{lists_dir}: declaration")
    check_lists(lists_dir, declaration)
    for split in ("train", "valid"):
        list_files(lists_dir, split)
    encoder = load_encoder(lists_dir, declaration)
    partial = f"{run_dir.rstrip(os.sep)}.partial"
    if chief:
        check_run(run_dir, lists_dir, declaration, config, resume, overwrite)
    training = ListDataset(lists_dir, "train", encoder, config.data, config.model.teacher.slots)
    validation = ListDataset(lists_dir, "valid", encoder, config.data)
    for lists in (training, validation):
        lists.check_positives()
    if chief:
        if not resume:
            start_run(partial, lists_dir, declaration, config)
        if verbose:
            print(_described(training, validation, config), flush=True)
    tf.keras.utils.set_random_seed(config.seed)
    policy = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}.get(config.mixed_precision, "float32")
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        with contextlib.ExitStack() as stack:
            # Workers other than the first write nothing that lasts.
            work_dir = partial if chief else stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(strategy.scope())
            tutor = None
            if config.distillation.source != "none" and config.distillation.mode == "offline":
                tutor = _train_tutor(encoder, config, training, validation, work_dir, verbose)
            model = build_model(encoder, config, tutor)
            device = check_placement(model.trainable_variables)
            if verbose and chief:
                print(f"Training on {device}, {strategy.num_replicas_in_sync} replica(s)", flush=True)
            trainer = _Trainer(model, config, training, validation, work_dir, verbose and chief)
            if resume:
                trainer.restore(partial)
            check_same_start(strategy, model.step)
            best = trainer.run()
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise WorkerLostError(
            f"another worker is gone ({type(error).__name__}); start every worker again with --resume"
        ) from None
    except tf.errors.ResourceExhaustedError as error:
        raise InputError(f"{partial}: the disk or memory is full ({error.message[:150]})") from None
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise InputError(f"{os.fspath(lists_dir)}: a record cannot be read: {explain(error)}") from None
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
    history = trainer.history.entries
    metrics = history[best - 1]["valid"]
    if chief:
        if verbose and (worse := worse_than_initial(metrics, "validation")):
            print(worse)
        write_json(
            os.path.join(partial, "metrics.json"),
            {"best_epoch": best, "epochs": len(history), "valid": metrics},
        )
        put_in_place(partial, run_dir)
    return TrainResult(run_dir, best, metrics, len(history))


def _described(training: ListDataset, validation: ListDataset, config: TrainConfig) -> str:
    """What is trained on, and what is not, in one line."""
    lists = training.lists
    cut = sum(count for length, count in lists.lengths.items() if length > training.sizes[-1])
    parts = [
        f"{training.count:,} training lists of up to {lists.max_length} candidates",
        f"{lists.with_positive:,} of them with a label of 1 or more",
        f"padded to {' or '.join(map(str, training.sizes))} candidates" + f" ({cut:,} are cut)" * bool(cut),
        f"{training.steps_per_epoch:,} steps of {config.data.batch_size} lists per epoch",
        f"{validation.count:,} validation lists",
    ]
    return "; ".join(parts)


def build_model(encoder: FeatureEncoder, config: TrainConfig, tutor: PSAD | None = None) -> PSAD:
    """Makes the model, its variables and its optimizer, compiled for training.

    Without Keras metrics: `Validation` ranks the lists itself.
    """
    model = PSAD(encoder.declaration, encoder.vocabulary_sizes, config, tutor)
    optimizer = make_optimizer(config.optimizer, config.mixed_precision)
    model.compile(optimizer, metrics=(), jit_compile=config.jit_compile)
    return model


def _train_tutor(
    encoder: FeatureEncoder,
    config: TrainConfig,
    training: ListDataset,
    validation: ListDataset,
    work_dir: str,
    verbose: bool,
) -> PSAD:
    """Offline distillation's first half: a teacher trained alone, to be frozen."""
    alone = dataclasses.replace(
        config,
        loss=dataclasses.replace(config.loss, listwise_weight=0.0, pointwise_weight=0.0),
        distillation=dataclasses.replace(config.distillation, mode="online", source="none"),
    )
    folder = os.path.join(work_dir, "tutor")
    os.makedirs(folder, exist_ok=True)
    model = build_model(encoder, alone)
    trainer = _Trainer(model, alone, training, validation, folder, verbose, selects="teacher")
    trainer.run()
    checkpoint = tf.train.Checkpoint(reranker=model.reranker, teacher=model.teacher)
    restore_checkpoint(tf.train.latest_checkpoint(os.path.join(folder, "best")), checkpoint)
    return model


class _Trainer:
    """One model's run in one work folder: one `fit`, and what stands around it."""

    def __init__(
        self,
        model: PSAD,
        config: TrainConfig,
        training: ListDataset,
        validation: ListDataset,
        work_dir: str,
        verbose: bool,
        selects: str = "student",
    ) -> None:
        self.model = model
        self.config = config
        self.training = training
        self.work_dir = work_dir
        self.verbose = verbose
        self.watch = StopOnDivergence(config.max_loss, config.mixed_precision == "float16", self._diverged)
        self.validation = Validation(Evaluator(validation, model.rank, config.jit_compile))
        self.best = KeepBest(
            tf.train.Checkpoint(reranker=model.reranker, teacher=model.teacher),
            os.path.join(work_dir, "best"),
            f"val_{selects}_{SELECTION_METRIC}",
            config.patience,
        )
        self.history = RunHistory(os.path.join(work_dir, "history.json"), self.validation)
        self.resume = ExactResume(
            model,
            os.path.join(work_dir, "checkpoints"),
            training.steps_per_epoch,
            config.checkpoint_steps,
            config.keep_checkpoints,
            best=self.best.state,
        )

    def restore(self, work_dir: str) -> None:
        """Goes to the latest checkpoint of a work folder; stays at the start if there is none."""
        if not self.resume.restore(os.path.join(work_dir, "checkpoints")):
            return
        done = self.resume.epoch
        self.history.entries = load_json(os.path.join(work_dir, "history.json"))[:done] if done else []
        if self.verbose:
            print(f"Resuming at epoch {done + 1}, step {int(self.model.step.numpy())}")

    def run(self) -> int:
        """Trains to the end; gives the best epoch, from 1."""
        callbacks: list[tf.keras.callbacks.Callback] = [
            self.watch,
            self.validation,
            self.best,
            tf.keras.callbacks.TensorBoard(os.path.join(self.work_dir, "logs"), write_graph=False),
            self.history,
        ]
        if self.verbose:
            sizes = tuple(self.training.sizes)
            callbacks.append(Lines(self.history, self.config.epochs, sizes, self.config.jit_compile))
        callbacks.append(self.resume)
        if self.resume.batch:  # Keras knows epochs of one length only
            self._fit(callbacks, self.resume.epoch + 1)
        if self.resume.epoch < self.config.epochs and not self.best.is_over(self.resume.epoch):
            self._fit(callbacks, self.config.epochs)
        return self.best.epoch

    def _fit(self, callbacks: list[tf.keras.callbacks.Callback], epochs: int) -> None:
        epoch, done = self.resume.epoch, self.resume.batch
        self.model.fit(
            self.training.training_batches(self.config.seed, epoch, epochs - epoch, done),
            # Said, not found out: a step that starts on a batch that is not there would count itself.
            steps_per_epoch=self.training.steps_per_epoch - done,
            initial_epoch=epoch,
            epochs=epochs,
            callbacks=callbacks,
            verbose=1 if self.verbose and sys.stdout.isatty() else 0,
        )

    def _diverged(self, step: int, terms: Mapping[str, float]) -> TrainingDiverged:
        """Saves the batch that did it and says so."""
        done = (step - 1) % self.training.steps_per_epoch
        batches = self.training.training_batches(self.config.seed, self.resume.epoch, first_step=done)
        path = os.path.join(self.work_dir, "diverged_batch.npz")
        for batch in batches.take(1):
            np.savez_compressed(path, **{key: value.numpy() for key, value in batch.items()})
        listed = ", ".join(f"{key} {value:g}" for key, value in terms.items())
        good = self.resume.latest
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint was due before"
        return TrainingDiverged(
            f"training diverged at step {step}: {listed}; the batch is in {path}, {kept}; lower "
            "optimizer.learning_rate or optimizer.clip_norm"
        )
