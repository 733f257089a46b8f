"""From list files to batches of encoded tensors: parsing, lookups, normalization, batching.

    TFRecords of ExampleListWithContext --parse_lists--> raw tensors (strings, floats with NaN)
      --FeatureEncoder--> encoded tensors (int32 ids, standardized float32, masks)

The same `FeatureEncoder` runs in front of the exported model, so training and serving cannot drift
apart. Encoded tensors hold no strings, so everything after them compiles under XLA.
"""

from __future__ import annotations

import functools
import glob
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_ranking as tfr

from psad_tf.config import DataConfig
from psad_tf.errors import InputError
from psad_tf.features import (
    HISTORY_PREFIX,
    INITIAL_RANK,
    ITEM_ID,
    NEGATIVE,
    RELEVANCE,
    REQUEST_ID,
    CategoricalFeature,
    FeatureDeclaration,
    load_json,
)

PADDING_ID = 0
UNKNOWN_ID = 1
LARGEST_STANDARDIZED = 10.0
_PARSE_BATCH = 256
_BATCHES_AHEAD = 2
_CORES = os.cpu_count() or 1
_FILES_AT_ONCE = 8  # when training; fixed, since the order of the lists follows from it


# --- parsing -------------------------------------------------------------------------------------


def context_spec(declaration: FeatureDeclaration) -> dict[str, Any]:
    """Parsing specification of the context Example."""
    spec: dict[str, Any] = {REQUEST_ID: tf.io.FixedLenFeature([], tf.string, "")}
    for feature in declaration.context_categorical:
        spec[feature.name] = _fixed_strings(feature)
    for dense in declaration.context_dense:
        spec[dense.name] = tf.io.FixedLenFeature([], tf.float32, math.nan)
    for feature in declaration.history.categorical:
        spec[HISTORY_PREFIX + feature.name] = tf.io.FixedLenSequenceFeature(
            [feature.width], tf.string, allow_missing=True, default_value=""
        )
    for dense in declaration.history.dense:
        spec[HISTORY_PREFIX + dense.name] = tf.io.FixedLenSequenceFeature(
            [], tf.float32, allow_missing=True, default_value=math.nan
        )
    return spec


def candidate_spec(declaration: FeatureDeclaration) -> dict[str, Any]:
    """Parsing specification of each candidate's Example."""
    spec: dict[str, Any] = {}
    for feature in declaration.candidate_categorical:
        spec[feature.name] = _fixed_strings(feature)
    for dense in declaration.candidate_dense:
        spec[dense.name] = tf.io.FixedLenFeature([], tf.float32, math.nan)
    spec[INITIAL_RANK] = tf.io.FixedLenFeature([], tf.int64, -1)
    spec[RELEVANCE] = tf.io.FixedLenFeature([], tf.float32, -1.0)
    spec[NEGATIVE] = tf.io.FixedLenFeature([], tf.float32, 0.0)
    return spec


def _fixed_strings(feature: CategoricalFeature) -> Any:
    return tf.io.FixedLenFeature([feature.width], tf.string, [""] * feature.width)


def parse_lists(
    serialized: tf.Tensor, declaration: FeatureDeclaration, list_size: int | None = None
) -> dict[str, tf.Tensor]:
    """Parses serialized ExampleListWithContext protos.

    Args:
        serialized: string [batch].
        declaration: The features; one that a record lacks gets its missing value.
        list_size: N; longer lists are cut, shorter ones padded. None takes the batch's longest.

    Returns:
        By name on the wire: context features [batch] or, categorical, [batch, width]; history features
        [batch, H] or [batch, H, width]; candidate features, `initial_rank`, `relevance` and `negative`
        [batch, N] or [batch, N, width]. Padding candidates have the item id "".
    """
    raw = tfr.data.parse_from_example_list(
        serialized,
        list_size=list_size,
        context_feature_spec=context_spec(declaration),
        example_feature_spec=candidate_spec(declaration),
    )
    length = declaration.history.length
    for feature in declaration.history.categorical:
        name = HISTORY_PREFIX + feature.name
        raw[name] = _resize(raw[name], length, "")
    for dense in declaration.history.dense:
        name = HISTORY_PREFIX + dense.name
        raw[name] = _resize(raw[name], length, math.nan)
    return raw


def _resize(values: tf.Tensor, length: int, padding: str | float) -> tf.Tensor:
    """Cuts or pads axis 1 to `length`."""
    values = values[:, :length]
    missing = length - tf.shape(values)[1]
    paddings = [[0, 0], [0, missing]] + [[0, 0]] * (values.shape.rank - 2)
    values = tf.pad(values, paddings, constant_values=padding)
    return tf.ensure_shape(values, [values.shape[0], length, *values.shape[2:]])


# --- encoding ------------------------------------------------------------------------------------


class FeatureEncoder(tf.Module):
    """Raw tensors to model tensors: ids by vocabulary lookup, dense values standardized.

    id(v) = 0 for "", 2 + line of v in its vocabulary, 1 if not in it;
    dense(x) = clip((f(x) - mean) / std, -10, 10), f the identity or log(1 + max(x, 0)), 0 if missing.

    Args:
        declaration: The features.
        vocabulary_dir: Folder of `<vocabulary>.txt` files; they become assets of a SavedModel.
        statistics: mean and std by dense key, as in `statistics.json`.

    Raises:
        InputError: A vocabulary file or the statistics of a declared feature are missing.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration,
        vocabulary_dir: str | os.PathLike[str],
        statistics: Mapping[str, Mapping[str, float]],
    ) -> None:
        super().__init__(name="feature_encoder")
        self.declaration = declaration
        self.vocabulary_sizes: dict[str, int] = {}
        self._tables: dict[str, tf.lookup.StaticHashTable | None] = {}
        for vocabulary in declaration.vocabularies:
            path = os.path.join(os.fspath(vocabulary_dir), f"{vocabulary}.txt")
            if not os.path.isfile(path):
                raise InputError(f"{path}: no such vocabulary file")
            with open(path, "rb") as file:
                lines = sum(1 for _ in file)
            self.vocabulary_sizes[vocabulary] = lines + 2
            self._tables[vocabulary] = _lookup_table(path) if lines else None
        self._moments: dict[str, tuple[float, float]] = {}
        for key in declaration.dense_keys:
            try:
                moments = statistics[key]
                self._moments[key] = (float(moments["mean"]), float(moments["std"]))
            except (KeyError, TypeError, ValueError):
                raise InputError(f"statistics: no mean and std of the declared feature {key!r}") from None
            if not self._moments[key][1] > 0.0:
                raise InputError(f"statistics: {key}: std must be positive, got {self._moments[key][1]}")

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes a batch.

        Args:
            raw: What `parse_lists` gives; labels may be absent.

        Returns:
            Categorical features by name on the wire, int32, shapes kept; `context_dense` [batch, Dc],
            `history_dense` [batch, H, Dh], `candidate_dense` [batch, N, Dn], float32; `history_mask`
            bool [batch, H]; `mask` bool [batch, N], false at padding; `initial_rank` int32 [batch, N].
            With `relevance` in `raw` also `labels` and `negatives`, float32 [batch, N], 0 at padding.
        """
        declaration = self.declaration
        encoded: dict[str, tf.Tensor] = {}
        for feature in declaration.context_categorical:
            encoded[feature.name] = self._ids(raw[feature.name], feature)
        for feature in declaration.history.categorical:
            name = HISTORY_PREFIX + feature.name
            encoded[name] = self._ids(raw[name], feature)
        for feature in declaration.candidate_categorical:
            encoded[feature.name] = self._ids(raw[feature.name], feature)
        item_ids = raw[ITEM_ID][..., 0]
        encoded["mask"] = mask = tf.not_equal(item_ids, "")
        encoded["history_mask"] = tf.not_equal(raw[HISTORY_PREFIX + ITEM_ID][..., 0], "")
        context, history, candidate = (
            [(f.name, f.transform) for f in declaration.context_dense],
            [(HISTORY_PREFIX + f.name, f.transform) for f in declaration.history.dense],
            [(f.name, f.transform) for f in declaration.candidate_dense],
        )
        encoded["context_dense"] = self._dense(raw, context, tf.shape(item_ids)[:1])
        encoded["history_dense"] = self._dense(raw, history, tf.shape(encoded["history_mask"]))
        encoded["candidate_dense"] = self._dense(raw, candidate, tf.shape(item_ids))
        positions = tf.broadcast_to(tf.range(tf.shape(item_ids)[1]), tf.shape(item_ids))
        ranks = tf.cast(raw[INITIAL_RANK], tf.int32)
        encoded[INITIAL_RANK] = tf.where(ranks >= 0, ranks, positions)
        if RELEVANCE in raw:
            encoded["labels"] = tf.where(mask, tf.maximum(raw[RELEVANCE], 0.0), 0.0)
            encoded["negatives"] = tf.where(mask, raw[NEGATIVE], 0.0)
        return encoded

    def _ids(self, values: tf.Tensor, feature: CategoricalFeature) -> tf.Tensor:
        table = self._tables[feature.vocabulary]
        if table is None:
            found = tf.fill(tf.shape(values), tf.constant(UNKNOWN_ID, tf.int64))
        else:
            found = table.lookup(values) + 2
        ids = tf.cast(tf.where(tf.equal(values, ""), tf.constant(PADDING_ID, tf.int64), found), tf.int32)
        return tf.ensure_shape(ids, values.shape)

    def _dense(
        self, raw: Mapping[str, tf.Tensor], features: Sequence[tuple[str, str]], shape: tf.Tensor
    ) -> tf.Tensor:
        if not features:
            return tf.zeros(tf.concat([shape, [0]], 0))
        columns = []
        for name, transform in features:
            values = raw[name]
            if transform == "log1p_standardize":
                values = tf.math.log1p(tf.maximum(values, 0.0))  # NaN stays NaN
            if transform != "none":
                mean, std = self._moments[name]
                values = (values - mean) / std
                values = tf.clip_by_value(values, -LARGEST_STANDARDIZED, LARGEST_STANDARDIZED)
            columns.append(tf.where(tf.math.is_nan(values), 0.0, values))
        return tf.stack(columns, -1)


def _lookup_table(path: str) -> tf.lookup.StaticHashTable:
    """value -> line number, -1 for values that the file lacks."""
    initializer = tf.lookup.TextFileInitializer(
        path,
        key_dtype=tf.string,
        key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
        value_dtype=tf.int64,
        value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    return tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN_ID - 2)


# --- list folders --------------------------------------------------------------------------------


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


def decoded_lists(
    lists_dir: str | os.PathLike[str],
    split: str,
    encoder: FeatureEncoder,
    list_size: int | None,
    files_at_once: int = 1,
) -> tf.data.Dataset:
    """One encoded list an element (N is `list_size`, or the list's own length).

    The order is that of `read_serialized`.
    """
    parse = functools.partial(parse_lists, declaration=encoder.declaration, list_size=list_size)
    dataset = read_serialized(lists_dir, split, files_at_once).batch(_PARSE_BATCH)
    dataset = dataset.map(
        lambda serialized: encoder(parse(serialized)), num_parallel_calls=_CORES, deterministic=True
    ).unbatch()
    return dataset if list_size is not None else dataset.map(_cut_padding)


def _options() -> tf.data.Options:
    """Without autotuning: its thread can hold up the end of an epoch for seconds."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _cut_padding(encoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Drops the candidates that only the longest list of the parsed batch needed."""
    return _cut_candidates(encoded, tf.reduce_sum(tf.cast(encoded["mask"], tf.int32)))


def _cut_candidates(encoded: dict[str, tf.Tensor], count: tf.Tensor | int) -> dict[str, tf.Tensor]:
    """Keeps the first `count` candidates of one list; only their axis is of unknown size."""
    return {
        key: value[:count] if value.shape.rank >= 1 and value.shape[0] is None else value
        for key, value in encoded.items()
    }


class ListDataset:
    """The lists of one split, ready to be batched.

    Args:
        lists_dir: A folder that `psad preprocess` wrote.
        split: `train`, `valid` or `test`.
        encoder: Of the same folder.
        config: Batch size, padded sizes, shuffle buffer, cache.

    Attributes:
        count: Lists in the split.
        list_bytes: Memory of a decoded list, at most.
        shuffle_buffer: Lists in the shuffle buffer.
        cached: Whether decoded lists are kept in memory.
    """

    def __init__(
        self, lists_dir: str | os.PathLike[str], split: str, encoder: FeatureEncoder, config: DataConfig
    ) -> None:
        self.config = config
        self.split = split
        sizes = config.list_sizes
        self.count = int(load_manifest(lists_dir)["lists"].get(split, 0))
        if not self.count:
            raise InputError(f"{os.fspath(lists_dir)}: the split {split!r} has no lists")
        lists = decoded_lists(
            lists_dir,
            split,
            encoder,
            sizes[0] if len(sizes) == 1 else None,
            _FILES_AT_ONCE if split == "train" else 1,
        )
        # Of several sizes a list keeps its own length until it is batched.
        longest = sizes[0] if len(sizes) == 1 else encoder.declaration.max_candidates
        self.list_bytes = sum(
            spec.dtype.size * math.prod(size or longest for size in spec.shape)
            for spec in lists.element_spec.values()
        )
        self.cached = config.cache and self.count * self.list_bytes <= config.cache_mib * 2**20
        self._lists = lists.cache() if self.cached else lists
        buffer = max(config.batch_size, config.shuffle_buffer_mib * 2**20 // self.list_bytes)
        self.shuffle_buffer = min(buffer, self.count)

    def training_batches(self, seed: int, epoch: int) -> tf.data.Dataset:
        """Shuffled whole batches of one epoch; the order is a function of `seed` and `epoch`."""
        lists = self._lists.shuffle(
            self.shuffle_buffer, seed=seed * 1_000_003 + epoch, reshuffle_each_iteration=False
        )
        batches = self._batched(lists, drop_remainder=True).prefetch(_BATCHES_AHEAD)
        options = _options()
        # Workers take their parts of every batch, not files of their own: the same batches for any number.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return batches.with_options(options)

    def batches(self) -> tf.data.Dataset:
        """All lists in file order; a last batch may be smaller."""
        batches = self._batched(self._lists, drop_remainder=False).prefetch(_BATCHES_AHEAD)
        return batches.with_options(_options())

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the same for every order of the lists."""
        if len(self.config.list_sizes) == 1:
            return self.count // self.config.batch_size
        return sum(1 for _ in self._batched(self._lists, drop_remainder=True))

    def _batched(self, lists: tf.data.Dataset, drop_remainder: bool) -> tf.data.Dataset:
        sizes, batch_size = self.config.list_sizes, self.config.batch_size
        if len(sizes) == 1:
            return lists.batch(batch_size, drop_remainder=drop_remainder)
        lists = lists.map(lambda encoded: _cut_candidates(encoded, sizes[-1]))
        return lists.bucket_by_sequence_length(
            lambda encoded: tf.shape(encoded["mask"])[0],
            bucket_boundaries=[size + 1 for size in sizes[:-1]] + [sizes[-1] + 1],
            bucket_batch_sizes=[batch_size] * (len(sizes) + 1),
            pad_to_bucket_boundary=True,
            drop_remainder=drop_remainder,
        )
