"""A folder of preprocessed lists: its manifest, its files, and whether a declaration fits them."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.parsing import candidate_spec, context_spec
from psad_tf.errors import InputError
from psad_tf.features import SHOWN_POSITION, FeatureDeclaration, load_json


def load_manifest(lists_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads `manifest.json` of a list folder.

    Raises:
        InputError: The folder is missing or not whole.
    """
    path = os.path.join(os.fspath(lists_dir), "manifest.json")
    if not os.path.isdir(lists_dir):
        raise InputError(f"{os.fspath(lists_dir)}: no such folder of lists (make one with 'psad preprocess')")
    if not os.path.isfile(path):
        raise InputError(
            f"{os.fspath(lists_dir)}: has no manifest.json, so it is not a whole folder of lists"
        )
    manifest = load_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != "psad-lists":
        raise InputError(f"{path}: is not a manifest of lists (format is not 'psad-lists')")
    if manifest.get("version") != 1:
        raise InputError(f"{path}: version {manifest.get('version')!r} is not readable, expected 1")
    return manifest


def load_encoder(
    folder: str | os.PathLike[str], declaration: FeatureDeclaration | None = None
) -> FeatureEncoder:
    """Makes the encoder of a list folder, or of a run folder, from its vocabularies and statistics.

    Args:
        folder: Holds `vocabularies/`, `statistics.json` and, unless `declaration` is given,
            `manifest.json`.
        declaration: The features.
    """
    folder = os.fspath(folder)
    if declaration is None:
        declaration = FeatureDeclaration.from_dict(
            load_manifest(folder).get("declaration"), os.path.join(folder, "manifest.json: declaration")
        )
    statistics = load_json(os.path.join(folder, "statistics.json"))
    return FeatureEncoder(declaration, os.path.join(folder, "vocabularies"), statistics)


def list_files(lists_dir: str | os.PathLike[str], split: str) -> list[str]:
    """The shard files of a split, sorted.

    Raises:
        InputError: There is none, or one that the manifest names is missing or of another size.
    """
    folder = os.fspath(lists_dir)
    manifest = load_manifest(folder)
    for name, facts in sorted(manifest.get("files", {}).items()):
        if not name.startswith(f"{split}/"):
            continue
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            raise InputError(f"{path}: missing, though manifest.json names it")
        if os.path.getsize(path) != facts["bytes"]:
            raise InputError(
                f"{path}: has {os.path.getsize(path)} bytes, manifest.json says {facts['bytes']}: "
                "truncated or changed; run 'psad preprocess' again"
            )
    paths = sorted(glob.glob(os.path.join(glob.escape(folder), split, "*.tfrecord.gz")))
    if not paths:
        raise InputError(f"{os.path.join(folder, split)}: no *.tfrecord.gz files")
    return paths


def read_serialized(lists_dir: str | os.PathLike[str], split: str, files_at_once: int = 1) -> tf.data.Dataset:
    """Serialized lists of a split, string scalars, in an order that is the same on every machine.

    Args:
        lists_dir: A folder that `psad preprocess` wrote.
        split: `train`, `valid` or `test`.
        files_at_once: Files read in parallel, one list of each in turn; 1 gives the order of the files.
    """
    paths = list_files(lists_dir, split)
    at_once = min(files_at_once, len(paths))
    return tf.data.Dataset.from_tensor_slices(paths).interleave(
        lambda path: tf.data.TFRecordDataset(path, compression_type="GZIP"),
        cycle_length=at_once,
        num_parallel_calls=at_once,
        deterministic=True,
    )


def check_lists(lists_dir: str | os.PathLike[str], declaration: FeatureDeclaration) -> None:
    """Refuses lists that a declaration does not fit, before any training.

    Compares the declaration with the features and types of the first record of every split.

    Raises:
        InputError: Naming the file and the feature that is missing or of another type; or a file that
            cannot be read.
    """
    from tensorflow_serving.apis import input_pb2

    for split in ("train", "valid", "test"):
        folder = os.path.join(os.fspath(lists_dir), split)
        if not os.path.isdir(folder):
            continue
        for record in _guarded(read_serialized(lists_dir, split).take(1), folder):
            lists = input_pb2.ExampleListWithContext.FromString(record.numpy())
            context = lists.context.features.feature
            for name, kind in _wire_types(declaration, "context").items():
                _check_feature(context, name, kind, f"{folder}: context")
            for candidate in lists.examples[:1]:
                for name, kind in _wire_types(declaration, "candidate").items():
                    if name == SHOWN_POSITION and name not in candidate.features.feature:
                        continue  # lists of an earlier version: all candidates were shown
                    _check_feature(candidate.features.feature, name, kind, f"{folder}: candidate")


def _wire_types(declaration: FeatureDeclaration, part: str) -> dict[str, str]:
    spec = context_spec(declaration) if part == "context" else candidate_spec(declaration)
    kinds = {tf.string: "bytes_list", tf.float32: "float_list", tf.int64: "int64_list"}
    return {name: kinds[feature.dtype] for name, feature in spec.items()}


def _check_feature(features: Mapping[str, Any], name: str, kind: str, where: str) -> None:
    if name not in features:
        raise InputError(
            f"{where} feature {name!r} is declared but not in the records (they have: "
            f"{', '.join(sorted(features))})"
        )
    found = features[name].WhichOneof("kind")
    if found is not None and found != kind:
        raise InputError(f"{where} feature {name!r}: declared as {kind}, the records have {found}")


def _guarded(dataset: tf.data.Dataset, where: str) -> Any:
    """Iterates, turning a damaged file into an `InputError`."""
    iterator = iter(dataset)
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            raise InputError(f"{where}: a record cannot be read: {explain(error)}") from None


def explain(error: tf.errors.OpError) -> str:
    """The one line of a TensorFlow error that says what is wrong."""
    lines = [line.strip() for line in error.message.splitlines() if line.strip()]
    said = next((line for line in lines if line != "Graph execution error:"), type(error).__name__)
    return said.rpartition("}}")[2].strip()[:300]
