"""Parsing, encoding, batching: what goes in comes out, whatever the padding and the order."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from psad_tf.config import DataConfig
from psad_tf.data import batches
from psad_tf.data.batches import ListDataset
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.list_folder import check_lists, list_files, load_encoder, load_manifest, read_serialized
from psad_tf.data.list_sizes import SplitLists
from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.features import CategoricalFeature, DenseFeature, FeatureDeclaration, HistoryDeclaration

DECLARATION = FeatureDeclaration(
    context_categorical=(CategoricalFeature("user_id"),),
    context_dense=(DenseFeature("age"),),
    history=HistoryDeclaration(3, (CategoricalFeature("item_id"), CategoricalFeature("genre", width=2))),
    candidate_categorical=(CategoricalFeature("item_id"),),
    candidate_dense=(DenseFeature("price", "log1p_standardize"), DenseFeature("raw", "none")),
)
STATISTICS = {
    "age": {"mean": 30.0, "std": 10.0},
    "history_age_seconds": {"mean": 0.0, "std": 1.0},
    "price": {"mean": 1.0, "std": 2.0},
    "raw": {"mean": 5.0, "std": 5.0},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> FeatureEncoder:
    folder = tmp_path_factory.mktemp("vocabularies")
    for name, values in {"user_id": ["u1"], "item_id": ["a", "b", "ü"], "genre": ["x", "y"]}.items():
        (folder / f"{name}.txt").write_text("".join(f"{value}\n" for value in values), encoding="utf-8")
    return FeatureEncoder(DECLARATION, folder, STATISTICS)


def one_list(items: list[str], **context: object) -> bytes:
    lists = input_pb2.ExampleListWithContext()
    features = lists.context.features.feature
    for name, values in context.items():
        if isinstance(values[0], str):
            features[name].bytes_list.value.extend(value.encode() for value in values)
        else:
            features[name].float_list.value.extend(values)
    for rank, item in enumerate(items):
        candidate = lists.examples.add().features.feature
        candidate["item_id"].bytes_list.value.append(item.encode())
        candidate["price"].float_list.value.append(math.e**3 - 1 if rank == 0 else math.nan)
        candidate["relevance"].float_list.value.append(float(rank))
    return lists.SerializeToString()


def test_lookup_standardization_and_missing_values(encoder):
    serialized = one_list(["ü", "new"], user_id=["u1"], age=[50.0])
    encoded = encoder(parse_lists(tf.constant([serialized]), DECLARATION, 3))
    assert encoded["item_id"].numpy().tolist() == [[[4], [1], [0]]]
    assert encoded["user_id"].numpy().tolist() == [[2]]
    assert encoded["context_dense"].numpy().tolist() == [[2.0]]
    np.testing.assert_allclose(encoded["candidate_dense"][0], [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], atol=1e-6)
    assert encoded["mask"].numpy().tolist() == [[True, True, False]]
    assert encoded["initial_rank"].numpy().tolist() == [[0, 1, 2]]
    assert encoded["labels"].numpy().tolist() == [[0.0, 1.0, 0.0]]
    assert not encoded["history_mask"].numpy().any()


def test_what_was_not_shown_has_no_label(encoder):
    lists = input_pb2.ExampleListWithContext.FromString(one_list(["a", "b", "ü"]))
    for candidate, position in zip(lists.examples, (1, -1, 0), strict=True):
        candidate.features.feature["shown_position"].int64_list.value.append(position)
        candidate.features.feature["relevance"].float_list.value[:] = [1.0]
        candidate.features.feature["negative"].float_list.value.append(1.0)
    encoded = encoder(parse_lists(tf.constant([lists.SerializeToString()]), DECLARATION, 4))
    assert encoded["shown_position"].numpy().tolist() == [[1, -1, 0, -1]]
    assert encoded["labels"].numpy().tolist() == encoded["negatives"].numpy().tolist() == [[1, 0, 1, 0]]


def test_a_list_without_positions_was_shown_whole_in_its_order(encoder):
    encoded = encoder(parse_lists(tf.constant([one_list(["a", "b"]), one_list(["ü"])]), DECLARATION, 3))
    assert encoded["shown_position"].dtype == tf.int32
    assert encoded["shown_position"].numpy().tolist() == [[0, 1, -1], [0, -1, -1]]


def test_history_is_cut_to_its_length_and_padded(encoder):
    long = one_list(["a"], history_item_id=["a", "b", "a", "b"], history_genre=["x", "", "y", "x"] * 2)
    short = one_list(["a"], history_item_id=["b"], history_genre=["y", ""], history_age_seconds=[0.0])
    encoded = encoder(parse_lists(tf.constant([long, short]), DECLARATION))
    assert encoded["history_item_id"][..., 0].numpy().tolist() == [[2, 3, 2], [3, 0, 0]]
    assert encoded["history_genre"].numpy().tolist() == [[[2, 0], [3, 2], [2, 0]], [[3, 0], [0, 0], [0, 0]]]
    assert encoded["history_mask"].numpy().tolist() == [[True] * 3, [True, False, False]]


def test_extreme_dense_values_are_clipped(encoder):
    encoded = encoder(parse_lists(tf.constant([one_list(["a"], age=[1e30])]), DECLARATION))
    assert encoded["context_dense"].numpy().tolist() == [[10.0]]


def test_missing_vocabulary_or_statistics_is_an_error_that_names_them(tmp_path):
    with pytest.raises(InputError, match=r"genre\.txt"):
        FeatureEncoder(DECLARATION, tmp_path, STATISTICS)
    for name in DECLARATION.vocabularies:
        (tmp_path / f"{name}.txt").write_text("a\n")
    with pytest.raises(InputError, match="'price'"):
        FeatureEncoder(DECLARATION, tmp_path, {k: v for k, v in STATISTICS.items() if k != "price"})


def request_order(batches: tf.data.Dataset) -> list[bytes]:
    return [batch["item_id"].numpy().tobytes() for batch in batches]


@pytest.mark.slow
def test_training_order_depends_on_seed_and_epoch_alone(lists_dir):
    dataset = ListDataset(
        lists_dir, "train", load_encoder(lists_dir), DataConfig(batch_size=16, list_sizes=(8,))
    )
    first = request_order(dataset.training_batches(1, 0))
    assert first == request_order(dataset.training_batches(1, 0))
    assert first != request_order(dataset.training_batches(1, 1))
    assert first != request_order(dataset.training_batches(2, 0))
    assert len(first) == dataset.steps_per_epoch


def test_files_read_in_parallel_give_a_list_of_each_in_turn(lists_dir):
    one_by_one = [
        list(tf.data.TFRecordDataset(path, "GZIP").as_numpy_iterator())
        for path in list_files(lists_dir, "train")
    ]
    assert len(one_by_one) > 1
    in_turn = [record for row in itertools.zip_longest(*one_by_one) for record in row if record is not None]
    for _ in range(2):
        assert list(read_serialized(lists_dir, "train", 8).as_numpy_iterator()) == in_turn
    in_order = [record for records in one_by_one for record in records]
    assert list(read_serialized(lists_dir, "train").as_numpy_iterator()) == in_order


def test_every_list_is_evaluated_once(lists_dir):
    dataset = ListDataset(
        lists_dir, "valid", load_encoder(lists_dir), DataConfig(batch_size=7, list_sizes=(8,))
    )
    assert sum(batch["mask"].shape[0] for batch in dataset.batches()) == dataset.count


@pytest.mark.slow
def test_length_buckets_hold_the_same_lists(lists_dir):
    encoder = load_encoder(lists_dir)
    one = ListDataset(lists_dir, "train", encoder, DataConfig(batch_size=8, list_sizes=(8,)))
    buckets = ListDataset(lists_dir, "train", encoder, DataConfig(batch_size=8, list_sizes=(4, 8)))

    def candidates(dataset: ListDataset) -> int:
        return sum(int(tf.reduce_sum(tf.cast(batch["mask"], tf.int32))) for batch in dataset.batches())

    assert {batch["mask"].shape[1] for batch in buckets.batches()} <= {4, 8}
    for batch in buckets.batches():
        assert bool(tf.reduce_all((batch["shown_position"] >= 0) == batch["mask"]))
    assert candidates(one) == candidates(buckets)


@pytest.mark.slow
def test_the_halves_of_the_users_share_no_list_and_leave_none_out(lists_dir):
    encoder = load_encoder(lists_dir)

    def users_and_lists(users: str) -> tuple[set[int], int]:
        config = DataConfig(batch_size=8, list_sizes=(8,), users=users)
        dataset = ListDataset(lists_dir, "train", encoder, config)
        found = [int(user) for batch in dataset.batches() for user in batch["user_id"][:, 0]]
        assert dataset.count == len(found)
        return set(found), len(found)

    (even, of_even), (odd, of_odd), (_, all_) = (users_and_lists(each) for each in ("even", "odd", "all"))
    assert even and odd and not even & odd and of_even + of_odd == all_


@pytest.fixture
def copied(lists_dir, tmp_path):
    return shutil.copytree(lists_dir, tmp_path / "lists")


def test_the_shuffle_buffer_and_the_cache_are_bounded_in_bytes(copied, monkeypatch):
    encoder = load_encoder(copied)

    def dataset(*sizes: int) -> ListDataset:
        config = DataConfig(batch_size=2, list_sizes=sizes, shuffle_buffer_mib=1, cache_mib=1)
        return ListDataset(copied, "train", encoder, config)

    small = dataset(8)
    decoded = next(iter(small.batches().unbatch()))
    assert small.list_bytes == sum(value.numpy().nbytes for value in decoded.values())
    assert small.shuffle_buffer == small.count and small.cached
    monkeypatch.setattr(batches, "scan_lists", lambda *_: SplitLists({8: 10**9}, 1))
    for large in (dataset(8), dataset(4, 8)):
        assert 2 < large.shuffle_buffer and large.shuffle_buffer * large.list_bytes <= 2**20
        assert not large.cached


def test_a_truncated_file_is_refused_by_name(copied):
    path = next((copied / "train").glob("*.gz"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=path.name):
        list_files(copied, "train")


def test_a_damaged_record_is_refused(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    for path in (copied / "train").glob("*.gz"):
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content[: len(content) // 2]))
        manifest["files"][f"train/{path.name}"]["bytes"] = path.stat().st_size
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="train: a record cannot be read"):
        ListDataset(copied, "train", load_encoder(copied), DataConfig(batch_size=16, list_sizes=(8,)))


def test_a_folder_without_manifest_is_not_whole(copied):
    (copied / "manifest.json").unlink()
    with pytest.raises(InputError, match="not a whole folder"):
        load_manifest(copied)


def test_lists_of_an_earlier_version_have_no_shown_positions_and_fit_all_the_same(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        if not name.startswith("train/"):
            continue
        path = copied / name
        records = [
            input_pb2.ExampleListWithContext.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(str(path), "GZIP")
        ]
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for record in records:
                for candidate in record.examples:
                    del candidate.features.feature["shown_position"]
                writer.write(record.SerializeToString())
        facts["bytes"] = path.stat().st_size
    (copied / "manifest.json").write_text(json.dumps(manifest))
    declaration = FeatureDeclaration.from_dict(load_manifest(copied)["declaration"], "manifest")
    check_lists(copied, declaration)
    lists = ListDataset(copied, "train", load_encoder(copied, declaration), DataConfig(batch_size=4))
    batch = next(iter(lists.batches()))
    slots = np.where(batch["mask"], np.arange(batch["mask"].shape[1]), -1)
    np.testing.assert_array_equal(batch["shown_position"], slots)


def test_a_declared_feature_that_the_records_lack_is_named(lists_dir):
    declaration = load_encoder(lists_dir).declaration
    wider = (*declaration.candidate_dense, DenseFeature("shoe_size", "none"))
    with pytest.raises(InputError, match="shoe_size"):
        check_lists(lists_dir, dataclasses.replace(declaration, candidate_dense=wider))
