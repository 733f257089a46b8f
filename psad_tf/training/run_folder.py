"""The run folder: how training makes it, and how evaluation and export read it.

Training works in `<run>.partial` and renames it when the run is whole.

    config.json  features.json  vocabularies/  statistics.json  lists_manifest.json
    best/ckpt-*  checkpoints/ckpt-*  metrics.json  history.json  logs/
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from psad_tf.config import TrainConfig, load_train_config
from psad_tf.data.empty_batch import empty_batch
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.list_folder import load_encoder, load_manifest
from psad_tf.errors import InputError
from psad_tf.features import FeatureDeclaration, load_declaration, load_json
from psad_tf.files import check_replaceable, replaced_directory, write_json
from psad_tf.models.student import Reranker

if TYPE_CHECKING:
    from psad_tf.models.psad import PSAD

_RUN_FILES = frozenset(
    (
        *("config.json", "features.json", "vocabularies", "statistics.json", "lists_manifest.json"),
        *("best", "checkpoints", "metrics.json", "history.json", "logs", "tutor", "diverged_batch.npz"),
    )
)


def check_run(
    run_dir: str,
    lists_dir: str | os.PathLike[str],
    declaration: FeatureDeclaration,
    config: TrainConfig,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Refuses to start or to resume a run where that would lose or mix up something.

    Args:
        run_dir: The run folder to be; training works in `<run_dir>.partial`.
        lists_dir: The lists to train on.
        declaration: The features.
        config: The run's configuration.
        resume: Continue what a stopped run left.
        overwrite: Replace an existing run, or drop an unfinished one.

    Raises:
        InputError: The run exists already; there is an unfinished run, or none to resume; or it was started
            with another configuration, other features or other lists.
    """
    work_dir = f"{run_dir.rstrip(os.sep)}.partial"
    if os.path.exists(run_dir) and not overwrite:
        raise InputError(f"{run_dir}: exists already; choose another folder or add --overwrite")
    check_replaceable(run_dir, _RUN_FILES)
    if resume:
        if not os.path.exists(work_dir):
            raise InputError(f"{work_dir}: no unfinished run to resume")
        _check_same_run(work_dir, lists_dir, declaration, config)
    elif os.path.exists(work_dir):
        if not overwrite:
            raise InputError(
                f"{work_dir}: an unfinished run; add --resume to continue it or --overwrite to drop it"
            )
        check_replaceable(work_dir, _RUN_FILES)


def start_run(
    work_dir: str, lists_dir: str | os.PathLike[str], declaration: FeatureDeclaration, config: TrainConfig
) -> None:
    """Makes the folder that training works in, with everything but weights in it.

    Args:
        work_dir: The folder; what an unfinished run left there is dropped.
        lists_dir: Vocabularies, statistics and manifest are copied from here.
        declaration: The features.
        config: The run's configuration.
    """
    source = os.fspath(lists_dir)
    if os.path.exists(work_dir):
        shutil.rmtree(work_dir)
    with replaced_directory(work_dir) as folder:
        shutil.copytree(os.path.join(source, "vocabularies"), os.path.join(folder, "vocabularies"))
        shutil.copyfile(os.path.join(source, "statistics.json"), os.path.join(folder, "statistics.json"))
        shutil.copyfile(os.path.join(source, "manifest.json"), os.path.join(folder, "lists_manifest.json"))
        write_json(os.path.join(folder, "features.json"), declaration.to_dict())
        write_json(os.path.join(folder, "config.json"), config.to_dict())


def _check_same_run(
    work_dir: str, lists_dir: str | os.PathLike[str], declaration: FeatureDeclaration, config: TrainConfig
) -> None:
    """Refuses to resume on anything but what the run was started on."""

    def differs(name: str, now: Any) -> bool:
        return bool(load_json(os.path.join(work_dir, name)) != json.loads(json.dumps(now)))

    if differs("config.json", config.to_dict()):
        raise InputError(f"{work_dir}: was started with another configuration; it cannot be resumed")
    if differs("features.json", declaration.to_dict()):
        raise InputError(f"{work_dir}: was started with another feature declaration; it cannot be resumed")
    before = load_json(os.path.join(work_dir, "lists_manifest.json"))["files"]
    now = load_manifest(lists_dir)["files"]
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise InputError(
            f"{os.fspath(lists_dir)}: not the lists that {work_dir} was started on ({changed[0]} differs"
            + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")
            + "): embeddings would belong to other ids; train anew with --overwrite"
        )


def check_finished(run_dir: str | os.PathLike[str]) -> None:
    """Refuses what is not a finished run, at once.

    Raises:
        InputError: The folder is missing or not a run.
    """
    folder = os.fspath(run_dir)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such run folder (make one with 'psad train')")
    if not os.path.isfile(os.path.join(folder, "metrics.json")):
        raise InputError(f"{folder}: is not a finished run (it has no metrics.json)")


def load_parts(run_dir: str | os.PathLike[str]) -> tuple[FeatureEncoder, TrainConfig]:
    """Encoder and configuration of a run.

    Raises:
        InputError: The folder is missing or not a run.
    """
    check_finished(run_dir)
    folder = os.fspath(run_dir)
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
        InputError: The folder is not a run, its checkpoint does not fit its configuration, or a weight is
            not a finite number.
    """
    encoder, config = load_parts(run_dir)
    reranker = Reranker(encoder.declaration, encoder.vocabulary_sizes, config.model)
    build(reranker, encoder.declaration)
    _restore_best(run_dir, reranker=reranker)
    return encoder, reranker, config


def build(reranker: Reranker, declaration: FeatureDeclaration) -> None:
    """Creates the variables by running one empty list through the model."""
    reranker(empty_batch(declaration, lists=1, candidates=2))


def load_psad(run_dir: str | os.PathLike[str]) -> tuple[FeatureEncoder, PSAD, TrainConfig]:
    """Restores the whole model, teacher included, of a run's best checkpoint.

    Raises:
        InputError: As `load_reranker`.
    """
    from psad_tf.models.psad import PSAD

    encoder, config = load_parts(run_dir)
    model = PSAD(encoder.declaration, encoder.vocabulary_sizes, config)
    _restore_best(run_dir, reranker=model.reranker, teacher=model.teacher)
    return encoder, model, config


def _restore_best(run_dir: str | os.PathLike[str], **parts: tf.keras.layers.Layer) -> None:
    """Fills parts of a model; refuses weights that would make every score NaN."""
    restore_checkpoint(best_checkpoint(run_dir), tf.train.Checkpoint(**parts))
    for weight in itertools.chain.from_iterable(part.weights for part in parts.values()):
        if not np.isfinite(weight.numpy()).all():
            raise InputError(
                f"{os.fspath(run_dir)}: {weight.name.split(':')[0]} has values that are not finite numbers: "
                "the training diverged"
            )


def restore_checkpoint(path: str, checkpoint: tf.train.Checkpoint, whole: bool = False) -> None:
    """Fills the variables of `checkpoint` from a file.

    Args:
        path: The file's prefix.
        checkpoint: What is filled.
        whole: The file may hold nothing else.

    Raises:
        InputError: The two do not fit, or the file is damaged.
    """
    try:
        status = checkpoint.restore(path)
        if whole:
            status.assert_consumed()
        else:
            status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise InputError(
            f"{path}: does not fit the run's configuration, or another version of psad_tf wrote it: "
            f"{str(error)[:200]}"
        ) from None
    except (IndexError, tf.errors.OpError) as error:  # IndexError: how TensorFlow reports a short file
        raise InputError(f"{path}: is damaged and cannot be read: {str(error)[:200]}") from None
