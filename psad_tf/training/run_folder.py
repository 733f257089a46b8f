"""The run folder that training writes and evaluation and export read.

Training works in `<run>.partial` and renames it when the run is whole.

    config.json  features.json  vocabularies/  statistics.json  lists_manifest.json
    best/ckpt-*  checkpoints/ckpt-*  metrics.json  history.json  logs/
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import tensorflow as tf

from psad_tf.config import TrainConfig, load_train_config
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.list_folder import load_encoder
from psad_tf.errors import InputError
from psad_tf.features import FeatureDeclaration, load_declaration
from psad_tf.models.student import Reranker

if TYPE_CHECKING:
    from psad_tf.models.psad import PSAD


def load_parts(run_dir: str | os.PathLike[str]) -> tuple[FeatureEncoder, TrainConfig]:
    """Encoder and configuration of a run.

    Raises:
        InputError: The folder is missing or not a run.
    """
    folder = os.fspath(run_dir)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such run folder (make one with 'psad train')")
    if not os.path.isfile(os.path.join(folder, "metrics.json")):
        raise InputError(f"{folder}: is not a finished run (it has no metrics.json)")
    config = load_train_config(os.path.join(folder, "config.json"))
    declaration = load_declaration(os.path.join(folder, "features.json"))
    return load_encoder(folder, declaration), config


def best_checkpoint(run_dir: str | os.PathLike[str]) -> str:
    """Prefix of the best checkpoint of a run."""
    folder = os.path.join(os.fspath(run_dir), "best")
    found = tf.train.latest_checkpoint(folder)
    if found is None:
        raise InputError(
            f"{folder}: no checkpoint (the run in {os.fspath(run_dir)} has not finished an epoch)"
        )
    return found


def load_reranker(run_dir: str | os.PathLike[str]) -> tuple[FeatureEncoder, Reranker, TrainConfig]:
    """Restores User Profile Network and student of a run's best checkpoint; the teacher is not touched.

    Returns:
        The encoder, the model on encoded tensors, and the run's configuration.

    Raises:
        InputError: The folder is not a run, or its checkpoint does not fit its configuration.
    """
    encoder, config = load_parts(run_dir)
    reranker = Reranker(encoder.declaration, encoder.vocabulary_sizes, config.model)
    build(reranker, encoder.declaration)
    _restore(run_dir, tf.train.Checkpoint(reranker=reranker))
    return encoder, reranker, config


def build(reranker: Reranker, declaration: FeatureDeclaration) -> None:
    """Creates the variables by running one empty list through the model."""
    reranker(empty_batch(declaration, lists=1, candidates=2))


def empty_batch(declaration: FeatureDeclaration, lists: int, candidates: int) -> dict[str, tf.Tensor]:
    """Encoded tensors of lists that are all padding."""
    length = declaration.history.length
    batch: dict[str, tf.Tensor] = {}
    for feature in declaration.context_categorical:
        batch[feature.name] = tf.zeros([lists, feature.width], tf.int32)
    for feature in declaration.history.categorical:
        batch["history_" + feature.name] = tf.zeros([lists, length, feature.width], tf.int32)
    for feature in declaration.candidate_categorical:
        batch[feature.name] = tf.zeros([lists, candidates, feature.width], tf.int32)
    batch["context_dense"] = tf.zeros([lists, len(declaration.context_dense)])
    batch["history_dense"] = tf.zeros([lists, length, len(declaration.history.dense)])
    batch["candidate_dense"] = tf.zeros([lists, candidates, len(declaration.candidate_dense)])
    batch["history_mask"] = tf.zeros([lists, length], tf.bool)
    batch["mask"] = tf.zeros([lists, candidates], tf.bool)
    batch["initial_rank"] = tf.zeros([lists, candidates], tf.int32)
    batch["shown_position"] = tf.fill([lists, candidates], -1)
    batch["labels"] = tf.zeros([lists, candidates])
    batch["negatives"] = tf.zeros([lists, candidates])
    return batch


def load_psad(run_dir: str | os.PathLike[str]) -> tuple[FeatureEncoder, PSAD, TrainConfig]:
    """Restores the whole model, teacher included, of a run's best checkpoint.

    Raises:
        InputError: As `load_reranker`.
    """
    from psad_tf.models.psad import PSAD

    encoder, config = load_parts(run_dir)
    model = PSAD(encoder.declaration, encoder.vocabulary_sizes, config)
    model.rank(empty_batch(encoder.declaration, lists=1, candidates=config.data.list_sizes[0]))
    _restore(run_dir, tf.train.Checkpoint(reranker=model.reranker, teacher=model.teacher))
    return encoder, model, config


def _restore(run_dir: str | os.PathLike[str], checkpoint: tf.train.Checkpoint) -> None:
    """Fills the variables of `checkpoint` from the run's best checkpoint."""
    path = best_checkpoint(run_dir)
    try:
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise InputError(f"{path}: does not fit the run's configuration: {str(error)[:200]}") from None
    except (IndexError, tf.errors.OpError) as error:  # IndexError: how TensorFlow reports a short file
        raise InputError(f"{path}: is damaged and cannot be read: {str(error)[:200]}") from None
