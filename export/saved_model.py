"""Writes `<base>/<model>/<version>/`: a SavedModel that TensorFlow Serving serves as it is."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Sequence

import tensorflow as tf

from psad_tf.data.list_folder import read_serialized
from psad_tf.errors import InputError
from psad_tf.export.executor import run_in_one_thread
from psad_tf.export.inspect import summarize
from psad_tf.export.model_card import write_model_card
from psad_tf.export.signatures import GraphOptions, ServingModule
from psad_tf.export.versions import claimed_version
from psad_tf.export.warmup import write_warmup
from psad_tf.files import replaced_directory, write_json
from psad_tf.serving.contract import LIMITS_FILE
from psad_tf.serving.version_files import write_files_list
from psad_tf.training.run_folder import load_reranker

_WARMUP_LISTS = 32
_DEFAULTS = GraphOptions()


def export_saved_model(
    run_dir: str | os.PathLike[str],
    base_dir: str | os.PathLike[str],
    *,
    model_name: str = "psad",
    version: int | None = None,
    lists_dir: str | os.PathLike[str] | None = None,
    warmup_split: str = "test",
    warmup_candidates: Sequence[int] = (),
    options: GraphOptions = _DEFAULTS,
) -> str:
    """Exports User Profile Network and student of a run; the teacher stays behind.

    Args:
        run_dir: A folder that `psad train` wrote.
        base_dir: Folder of served models; made if missing.
        model_name: Name under which it is served.
        version: A positive number; None takes the next after those that are there.
        lists_dir: Folder of lists from which the warm-up records are taken; None writes none.
        warmup_split: Split of those lists.
        warmup_candidates: Numbers of candidates that the records have: those that traffic will have. None
            leaves the lists as they are.
        options: How the graph is built.

    Returns:
        The folder written, `<base_dir>/<model_name>/<version>`. It appears under that name only when
        it is whole.

    Raises:
        InputError: The run is not whole or has diverged, the name or version is impossible, the version
            exists, a number of warm-up candidates is impossible, or a weight is beyond float16.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", model_name) or model_name.strip(".") == "":
        raise InputError(f"model name {model_name!r}: use letters, digits, '_', '-' and '.'")
    if version is not None and version < 1:
        raise InputError(f"version {version}: must be a positive number")
    encoder, reranker, _ = load_reranker(run_dir)
    limit = encoder.declaration.max_candidates
    for count in warmup_candidates:
        if not 1 <= count <= limit:
            raise InputError(f"warm-up with {count} candidates: must be 1 to {limit} (max_candidates)")
    lists = []
    if lists_dir is not None:
        lists = list(read_serialized(lists_dir, warmup_split).take(_WARMUP_LISTS).as_numpy_iterator())
    folder = os.path.join(os.fspath(base_dir), model_name)
    with claimed_version(folder, version) as number:
        path = os.path.join(folder, str(number))
        with replaced_directory(path) as temporary, tempfile.TemporaryDirectory() as vocabulary_dir:
            module = ServingModule(encoder, reranker, options, vocabulary_dir)
            signatures = module.signatures()
            tf.saved_model.save(module, temporary, signatures=signatures)
            run_in_one_thread(temporary, signatures)
            write_json(os.path.join(temporary, LIMITS_FILE), dataclasses.asdict(module.limits))
            if lists:
                write_warmup(temporary, lists, encoder.declaration, model_name, warmup_candidates)
            write_model_card(temporary, run_dir, model_name, number, options, summarize(temporary))
            write_files_list(temporary)
    return path


def describe(path: str) -> str:
    """One line about an exported model, for the command's last line."""
    facts = summarize(path)
    return (
        f"{facts.parameters_exported:,} parameters, {facts.bytes:,} bytes, "
        f"signatures {', '.join(facts.signatures)}"
    )
