"""Training: epochs of the compiled train step, validation, early stopping, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
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
from psad_tf.evaluation.evaluate import Evaluator
from psad_tf.features import FeatureDeclaration, load_json
from psad_tf.files import check_replaceable, replaced_directory, replaced_file
from psad_tf.models.psad import PSAD
from psad_tf.training.devices import check_placement
from psad_tf.training.distribution import WorkerLostError, check_same_start, is_chief, make_strategy
from psad_tf.training.epoch_sums import EpochSums
from psad_tf.training.optimizer import make_optimizer
from psad_tf.training.run_folder import empty_batch

SELECTION_METRIC = "ndcg@10"
_RUN_FILES = frozenset(
    (
        *("config.json", "features.json", "vocabularies", "statistics.json", "lists_manifest.json"),
        *("best", "checkpoints", "metrics.json", "history.json", "logs", "tutor", "diverged_batch.npz"),
    )
)


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
        InputError: The lists do not fit the declaration or are damaged; the run exists already; the
            unfinished run has another configuration.
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
        _prepare(run_dir, partial, lists_dir, encoder, config, resume, overwrite)
    tf.keras.utils.set_random_seed(config.seed)
    policy = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}.get(config.mixed_precision, "float32")
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        with contextlib.ExitStack() as stack:
            # Workers other than the first write nothing that lasts.
            work_dir = partial if chief else stack.enter_context(tempfile.TemporaryDirectory())
            training = ListDataset(lists_dir, "train", encoder, config.data)
            validation = ListDataset(lists_dir, "valid", encoder, config.data)
            stack.enter_context(strategy.scope())
            tutor = None
            if config.distillation.enabled and config.distillation.mode == "offline":
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
        _write_json(
            os.path.join(partial, "metrics.json"),
            {"best_epoch": best, "epochs": len(trainer.history), "valid": metrics},
        )
        _finish(partial, run_dir)
    return TrainResult(run_dir, best, metrics, len(trainer.history))


def build_model(encoder: FeatureEncoder, config: TrainConfig, tutor: PSAD | None = None) -> PSAD:
    """Makes the model, its variables and its optimizer, compiled for training."""
    model = PSAD(encoder.declaration, encoder.vocabulary_sizes, config, tutor)
    model.rank(empty_batch(encoder.declaration, lists=1, candidates=config.data.list_sizes[0]))
    if tutor is not None:
        model.teacher.trainable = False
    model.compile(
        optimizer=make_optimizer(config.optimizer, config.mixed_precision), jit_compile=config.jit_compile
    )
    model.optimizer.build(model.trainable_variables)
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
        loss=dataclasses.replace(config.loss, student_weight=0.0),
        distillation=dataclasses.replace(config.distillation, enabled=False),
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
        self.sums = EpochSums()
        progress = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            epoch=self.epoch,
            batch=self.batch,
            best=self.best,
            best_epoch=self.best_epoch,
            sums=self.sums,
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
        if steps == 0:
            raise InputError(
                f"data.batch_size: {self.config.data.batch_size} is more than the "
                f"{self.training.count} training lists"
            )
        watch = _StepCallback(self)
        if skip < steps:
            bar = 0 if not self.verbose else (1 if sys.stdout.isatty() else 2)
            self.model.fit(
                batches,
                # Said, not found out: a step that starts on a batch that is not there would count itself.
                steps_per_epoch=steps - skip,
                epochs=epoch + 1,
                initial_epoch=epoch,
                verbose=bar,
                callbacks=[watch],
            )
        losses = self.sums.means()
        evaluated = self.evaluator.run()
        evaluation, agreement = evaluated.means(), float(np.nanmean(evaluated.agreement))
        quality = evaluation[self.selects][SELECTION_METRIC]
        if not np.isfinite(quality):
            raise InputError(
                f"validation {SELECTION_METRIC} of the {self.selects} is {quality}: no list of the split "
                "'valid' has a relevant candidate, so no epoch can be chosen"
            )
        self.epoch.assign(epoch + 1)
        self.batch.assign(0)
        self.sums.clear()
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
        _write_json(os.path.join(self.work_dir, "history.json"), self.history)
        self.checkpoints.save(checkpoint_number=int(self.model.step.numpy()))
        self._summarize(writer, losses, evaluation)
        if self.verbose:
            row = "  ".join(f"{name} {each[SELECTION_METRIC]:.4f}" for name, each in evaluation.items())
            print(f"epoch {epoch + 1}: validation NDCG@10  {row}  ({seconds:.1f} s)", flush=True)

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

    def diverged(self, step: int, terms: Mapping[str, float]) -> TrainingDiverged:
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


class _StepCallback(tf.keras.callbacks.Callback):
    """After each step: stop on a loss that diverges, count the batch, write checkpoints."""

    def __init__(self, trainer: _Trainer) -> None:
        super().__init__()
        self.trainer = trainer

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        trainer = self.trainer
        trainer.batch.assign_add(1)
        terms = dict(logs or {})
        if self._diverged(terms):
            raise trainer.diverged(int(trainer.model.step.numpy()), terms)
        trainer.sums.add(terms)
        every = trainer.config.checkpoint_steps
        if every and int(trainer.model.step.numpy()) % every == 0:
            trainer.checkpoints.save(checkpoint_number=int(trainer.model.step.numpy()))

    def _diverged(self, terms: Mapping[str, float]) -> bool:
        config = self.trainer.config
        if not terms["loss"] <= config.largest_loss:
            return True
        # Loss scaling leaves out the steps whose float16 gradient overflows.
        return config.mixed_precision != "float16" and not np.isfinite(terms["gradient_norm"])


def _prepare(
    run_dir: str,
    work_dir: str,
    lists_dir: str | os.PathLike[str],
    encoder: FeatureEncoder,
    config: TrainConfig,
    resume: bool,
    overwrite: bool,
) -> None:
    """Makes or reopens `<run_dir>.partial` with everything but weights in it."""
    if os.path.exists(run_dir) and not overwrite:
        raise InputError(f"{run_dir}: exists already; choose another folder or add --overwrite")
    check_replaceable(run_dir, _RUN_FILES)
    if os.path.exists(work_dir):
        if resume:
            previous = load_json(os.path.join(work_dir, "config.json"))
            if previous != json.loads(json.dumps(config.to_dict())):
                raise InputError(f"{work_dir}: was started with another configuration; it cannot be resumed")
            return
        if not overwrite:
            raise InputError(
                f"{work_dir}: an unfinished run; add --resume to go on or --overwrite to drop it"
            )
        check_replaceable(work_dir, _RUN_FILES)
        shutil.rmtree(work_dir)
    elif resume:
        raise InputError(f"{work_dir}: no unfinished run to resume")
    source = os.fspath(lists_dir)
    with replaced_directory(work_dir) as folder:
        shutil.copytree(os.path.join(source, "vocabularies"), os.path.join(folder, "vocabularies"))
        shutil.copyfile(os.path.join(source, "statistics.json"), os.path.join(folder, "statistics.json"))
        shutil.copyfile(os.path.join(source, "manifest.json"), os.path.join(folder, "lists_manifest.json"))
        _write_json(os.path.join(folder, "features.json"), encoder.declaration.to_dict())
        _write_json(os.path.join(folder, "config.json"), config.to_dict())


def _finish(work_dir: str, run_dir: str) -> None:
    if os.path.exists(run_dir):
        old = f"{work_dir}.old"
        os.rename(run_dir, old)
        os.rename(work_dir, run_dir)
        shutil.rmtree(old)
    else:
        os.rename(work_dir, run_dir)


def _write_json(path: str, data: Any) -> None:
    with replaced_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
