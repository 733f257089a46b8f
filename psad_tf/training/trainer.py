"""Training: epochs of the compiled train step, validation, early stopping, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.config import TrainConfig
from psad_tf.data.batches import ListDataset
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.list_folder import check_lists, explain, list_files, load_encoder, load_manifest
from psad_tf.errors import InputError
from psad_tf.evaluation.evaluate import SELECTION_METRIC, Evaluator, worse_than_initial
from psad_tf.features import FeatureDeclaration, load_json
from psad_tf.models.psad import PSAD
from psad_tf.training.callbacks import Progress, StepWatch
from psad_tf.training.devices import check_placement
from psad_tf.training.distribution import WorkerLostError, check_same_start, is_chief, make_strategy
from psad_tf.training.optimizer import make_optimizer
from psad_tf.training.run_folder import check_run, finish_run, start_run, write_json


class TrainingDiverged(InputError):
    """The loss or its gradient is not a finite number any more, or the loss is above `largest_loss`."""


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
            trainer.restore(os.path.join(partial, "checkpoints") if resume else "")
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
    metrics = trainer.history[best - 1]["valid"]
    if chief:
        if verbose and (worse := worse_than_initial(metrics, "validation")):
            print(worse)
        write_json(
            os.path.join(partial, "metrics.json"),
            {"best_epoch": best, "epochs": len(trainer.history), "valid": metrics},
        )
        finish_run(partial, run_dir)
    return TrainResult(run_dir, best, metrics, len(trainer.history))


def _described(training: ListDataset, validation: ListDataset, config: TrainConfig) -> str:
    """What is trained on, and what is not, in one line."""
    lists = training.lists
    cut = sum(count for length, count in lists.lengths.items() if length > training.sizes[-1])
    parts = [
        f"{training.count:,} training lists of up to {lists.longest} candidates",
        f"{lists.with_positive:,} of them with a label of 1 or more",
        f"padded to {' or '.join(map(str, training.sizes))} candidates" + f" ({cut:,} are cut)" * bool(cut),
        f"{training.steps_per_epoch:,} steps of {config.data.batch_size} lists per epoch",
        f"{validation.count:,} validation lists",
    ]
    return "; ".join(parts)


def build_model(encoder: FeatureEncoder, config: TrainConfig, tutor: PSAD | None = None) -> PSAD:
    """Makes the model, its variables and its optimizer, compiled for training."""
    model = PSAD(encoder.declaration, encoder.vocabulary_sizes, config, tutor)
    if tutor is not None:
        model.teacher.trainable = False
    model.compile(
        optimizer=make_optimizer(config.optimizer, config.mixed_precision), jit_compile=config.jit_compile
    )
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
    checkpoint.restore(tf.train.latest_checkpoint(os.path.join(folder, "best"))).expect_partial()
    return model


class _Trainer:
    """The loop over epochs of one model, in one work folder."""

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
        self.selects = selects
        self.evaluator = Evaluator(validation, model.rank, config.jit_compile)
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.batch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
        self.best_epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        progress = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            epoch=self.epoch,
            batch=self.batch,
            best=self.best,
            best_epoch=self.best_epoch,
        )
        self.checkpoints = tf.train.CheckpointManager(
            progress, os.path.join(work_dir, "checkpoints"), max_to_keep=config.keep_checkpoints
        )
        self.best_checkpoints = tf.train.CheckpointManager(
            tf.train.Checkpoint(reranker=model.reranker, teacher=model.teacher),
            os.path.join(work_dir, "best"),
            max_to_keep=1,
        )
        self.history: list[dict[str, Any]] = []
        self.callbacks: list[tf.keras.callbacks.Callback] = [
            StepWatch(config, self.batch, self.checkpoints, self._diverged)
        ]
        if verbose:
            self.callbacks.append(
                Progress(training.steps_per_epoch, tuple(training.sizes), config.jit_compile)
            )

    def restore(self, folder: str) -> None:
        """Goes to the latest checkpoint of `folder`; stays at the start if there is none."""
        found = tf.train.latest_checkpoint(folder) if folder else None
        if found is None:
            return
        self.checkpoints.checkpoint.restore(found).assert_consumed()
        done = int(self.epoch.numpy())
        path = os.path.join(os.path.dirname(folder), "history.json")
        self.history = load_json(path)[:done] if done else []
        if self.verbose:
            print(f"Resuming at epoch {done + 1}, step {int(self.model.step.numpy())}")

    def run(self) -> int:
        """Trains to the end; gives the best epoch, from 1."""
        writer = tf.summary.create_file_writer(os.path.join(self.work_dir, "logs"))
        while int(self.epoch.numpy()) < self.config.epochs and not self._patience_is_over():
            self._epoch(writer)
        writer.close()
        return int(self.best_epoch.numpy())

    def _patience_is_over(self) -> bool:
        waited = int(self.epoch.numpy()) - int(self.best_epoch.numpy())
        return self.config.patience > 0 and waited >= self.config.patience

    def _epoch(self, writer: tf.summary.SummaryWriter) -> None:
        started = time.perf_counter()
        epoch, skip = int(self.epoch.numpy()), int(self.batch.numpy())
        batches = self.training.training_batches(self.config.seed, epoch)
        if skip:
            batches = batches.skip(skip)
        steps = self.training.steps_per_epoch
        if skip < steps:
            self.model.fit(
                batches,
                # Said, not found out: a step that starts on a batch that is not there would count itself.
                steps_per_epoch=steps - skip,
                epochs=epoch + 1,
                initial_epoch=epoch,
                verbose=0,
                callbacks=self.callbacks,
            )
        losses = {name: float(term.result()) for name, term in self.model.loss_terms.items()}
        if self.verbose and not self.history:
            print("Ranking the validation lists, compiled once too ...", flush=True)
        evaluated = self.evaluator.run()
        evaluation, agreement = evaluated.means(), float(np.nanmean(evaluated.agreement))
        quality = evaluation[self.selects][SELECTION_METRIC]
        self.epoch.assign(epoch + 1)
        self.batch.assign(0)
        self.model.reset_metrics()
        if quality > float(self.best.numpy()):
            self.best.assign(quality)
            self.best_epoch.assign(epoch + 1)
            self.best_checkpoints.save(checkpoint_number=epoch + 1)
        seconds = round(time.perf_counter() - started, 2)
        self.history.append(
            {
                "epoch": epoch + 1,
                "losses": losses,
                "valid": evaluation,
                "agreement": agreement,
                "seconds": seconds,
            }
        )
        write_json(os.path.join(self.work_dir, "history.json"), self.history)
        self.checkpoints.save(checkpoint_number=int(self.model.step.numpy()))
        self._summarize(writer, losses, evaluation)
        if self.verbose:
            row = "  ".join(f"{name} {each[SELECTION_METRIC]:.4f}" for name, each in evaluation.items())
            print(
                f"epoch {epoch + 1}/{self.config.epochs}: loss {losses['loss']:.4f}  "
                f"validation NDCG@10  {row}  ({seconds:.1f} s)",
                flush=True,
            )

    def _summarize(
        self,
        writer: tf.summary.SummaryWriter,
        losses: Mapping[str, float],
        evaluation: Mapping[str, Mapping[str, float]],
    ) -> None:
        with writer.as_default(step=int(self.model.step.numpy())):
            for name, value in losses.items():
                tf.summary.scalar(f"train/{name}", value)
            for model, metrics in evaluation.items():
                for metric, value in metrics.items():
                    tf.summary.scalar(f"valid/{model}/{metric}", value)
        writer.flush()

    def _diverged(self, step: int, terms: Mapping[str, float]) -> TrainingDiverged:
        """Saves the batch that did it and says so."""
        batches = self.training.training_batches(self.config.seed, int(self.epoch.numpy()))
        path = os.path.join(self.work_dir, "diverged_batch.npz")
        for batch in batches.skip(int(self.batch.numpy()) - 1).take(1):
            np.savez_compressed(path, **{key: value.numpy() for key, value in batch.items()})
        listed = ", ".join(f"{key} {value:g}" for key, value in terms.items())
        good = self.checkpoints.latest_checkpoint
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint was due before"
        return TrainingDiverged(
            f"training diverged at step {step}: {listed}; the batch is in {path}, {kept}; lower "
            "optimizer.learning_rate or optimizer.clip_norm"
        )
