"""Training of the neural baselines: the same optimizer, early stopping and data as PSAD's."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import tensorflow as tf

from psad_tf.baselines.base import Baseline
from psad_tf.data.batches import ListDataset
from psad_tf.data.empty_batch import empty_batch
from psad_tf.evaluation.evaluate import Evaluator
from psad_tf.training.optimizer import make_optimizer

SELECTION_METRIC = "ndcg@10"


@dataclasses.dataclass(frozen=True)
class BaselineRun:
    """What a training run came to.

    Attributes:
        best_epoch: The epoch, from 1, whose weights the model has now.
        epochs: Epochs run.
        valid: Validation metrics of the best epoch.
        seconds: Wall time.
    """

    best_epoch: int
    epochs: int
    valid: Mapping[str, float]
    seconds: float


def train_baseline(
    model: Baseline, training: ListDataset, validation: ListDataset, verbose: bool = False
) -> BaselineRun:
    """Trains a baseline and leaves it with the weights of its best validation NDCG@10.

    Optimizer, epochs, patience, seed and compilation are those of `model.config`; set the seed of the
    weights (`tf.keras.utils.set_random_seed`) before making the model.

    Args:
        model: A new baseline.
        training: Training lists.
        validation: Validation lists.
        verbose: Print a line an epoch.

    Returns:
        How it went.
    """
    config, started = model.config, time.perf_counter()
    declaration = model.candidate_inputs.declaration
    example = empty_batch(declaration, lists=1, candidates=config.model.teacher.slots)
    model(example)
    model.list_loss(example, None, tf.zeros_like(example["labels"]))
    model.compile(optimizer=make_optimizer(config.optimizer), jit_compile=config.jit_compile)
    model.optimizer.build(model.trainable_variables)
    evaluator = Evaluator(validation, lambda batch: {"model": model.rank(batch)}, config.jit_compile)
    best, best_epoch, best_valid, weights, epoch = -1.0, 0, {}, model.get_weights(), 0
    while epoch < config.epochs and not 0 < config.patience <= epoch - best_epoch:
        fitted = model.fit(training.training_batches(config.seed, epoch), verbose=0)
        valid = evaluator.run().means()["model"]
        epoch += 1
        if valid[SELECTION_METRIC] > best:
            best, best_epoch, best_valid, weights = valid[SELECTION_METRIC], epoch, valid, model.get_weights()
        if verbose:
            loss, quality = fitted.history["loss"][-1], valid[SELECTION_METRIC]
            print(f"{model.name} epoch {epoch}: loss {loss:.4f}  validation NDCG@10 {quality:.4f}")
    model.set_weights(weights)
    return BaselineRun(best_epoch, epoch, best_valid, time.perf_counter() - started)
