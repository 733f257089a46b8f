"""Lists of many lengths: which sizes they are padded to, and that none is cut or left out unasked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from psad_tf.beam.pipeline import preprocess
from psad_tf.config import DataConfig, TrainConfig
from psad_tf.data.batches import ListDataset, filled_batch
from psad_tf.data.list_folder import load_encoder
from psad_tf.data.list_sizes import choose_sizes, scan_lists
from psad_tf.errors import InputError
from psad_tf.evaluation.evaluate import Evaluator
from psad_tf.layers.dropout import hashed_uniform
from tests import own_logs, tiny

# 60 lists of 3 to 6, one of 12, and 18 of 40 or 41: with batches of 8, no size but the first fills one.
LENGTHS = [3 + index % 4 for index in range(60)] + [12] + [40 + index % 2 for index in range(18)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed")
    order = np.random.default_rng(1).permutation(len(LENGTHS))
    raw = own_logs.write(root / "raw", [LENGTHS[i] for i in order], own_logs.declaration())
    preprocess(str(raw), str(root / "lists"), own_logs.declaration())
    return root / "lists"


def dataset(lists, split="train", slots: int | None = 3, **changes: object) -> ListDataset:
    return ListDataset(lists, split, load_encoder(lists), DataConfig(batch_size=8, **changes), slots)


def lists_in(batches: tf.data.Dataset) -> list[bytes]:
    """Every list of the batches by its items, without padding."""
    return sorted(
        row[mask].tobytes()
        for batch in batches
        for row, mask in zip(batch["item_id"].numpy(), batch["mask"].numpy(), strict=True)
        if mask.any()
    )


@pytest.mark.slow
def test_every_list_is_trained_on_in_every_epoch_in_batches_of_one_shape_per_size(mixed):
    lists = dataset(mixed)
    whole = lists_in(dataset(mixed, slots=None).batches())
    assert len(whole) == lists.count and len(lists.sizes) > 1
    for epoch in range(2):
        batches = list(lists.training_batches(1, epoch))
        assert lists_in(batches) == whole
        assert {batch["mask"].shape[0] for batch in batches} == {8}
        assert {batch["mask"].shape[1] for batch in batches} <= set(lists.sizes)
        assert len(batches) == lists.steps_per_epoch


def test_a_size_with_fewer_lists_than_a_batch_is_trained_on(mixed):
    sizes = dataset(mixed, list_sizes=(6, 12, 41))
    assert sizes.lists.lengths[12] < 8
    shapes = [batch["mask"].shape[1] for batch in sizes.training_batches(1, 0)]
    assert 12 in shapes and len(shapes) == sizes.steps_per_epoch


def test_a_list_longer_than_the_largest_size_is_an_error_unless_cutting_is_asked_for(mixed):
    with pytest.raises(InputError, match=r"training lists have more than 12 candidates, up to 41.*truncate"):
        dataset(mixed, list_sizes=(6, 12))
    cut = dataset(mixed, list_sizes=(6, 12), long_lists="truncate")
    assert {batch["mask"].shape[1] for batch in cut.training_batches(1, 0)} <= {6, 12}
    assert len(lists_in(cut.training_batches(1, 0))) == cut.count


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(), (6,), (6, 12), (6, 41)])
def test_metrics_count_whole_lists_whatever_sizes_are_trained_on(mixed, sizes):
    everything = Evaluator(dataset(mixed, slots=None, list_sizes=(60,)), lambda batch: {}, False).run()
    found = Evaluator(
        dataset(mixed, slots=None, list_sizes=sizes, long_lists="truncate"), lambda batch: {}, False
    ).run()
    for metric, values in everything.values["initial"].items():
        mean = found.values["initial"][metric]
        assert np.nanmean(mean) == pytest.approx(np.nanmean(values), rel=1e-6), metric


def test_sizes_below_the_slots_are_one_clear_error():
    with pytest.raises(InputError, match=r"data\.list_sizes: 8 is below model\.teacher\.slots, 20"):
        TrainConfig(data=DataConfig(list_sizes=(8, 30)))


def test_the_scan_counts_what_was_written(mixed):
    lists = scan_lists(mixed, "train")
    assert set(lists.lengths) <= set(LENGTHS) and lists.max_length in (40, 41)
    assert lists.with_positive == lists.count == 63  # four fifths


def padded_candidates(lengths: dict[int, int], sizes: tuple[int, ...]) -> int:
    return sum(count * min(size for size in sizes if size >= length) for length, count in lengths.items())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(1, 40), st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 30))
def test_chosen_sizes_hold_every_list_and_pad_least_for_their_number(lengths, min_size):
    sizes = choose_sizes(lengths, min_size)
    assert list(sizes) == sorted(set(sizes)) and len(sizes) <= 4 and sizes[0] >= min_size
    merged: dict[int, int] = {}
    for length, count in lengths.items():
        merged[max(length, min_size)] = merged.get(max(length, min_size), 0) + count
    assert sizes[-1] == max(merged)
    least = min(
        padded_candidates(merged, (*others, max(merged)))
        for others in itertools.combinations(sorted(merged)[:-1], len(sizes) - 1)
    )
    assert padded_candidates(merged, sizes) == least


@pytest.mark.slow
def test_the_empty_lists_that_fill_a_batch_change_no_loss_and_no_gradient():
    model, batch = tiny.model(tiny.config(dropout=0.2)), tiny.batch(5, 7, shortest=3)

    def step(lists: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        ties = hashed_uniform(tf.shape(lists["labels"]), tf.constant([1, 2]), "ties")
        with tf.GradientTape() as tape:
            terms = model.compute_losses(lists, tf.constant([1, 2]), ties, tf.constant(0.5))
        gradients = tape.gradient(terms["loss"], model.trainable_variables)
        return terms, [tf.convert_to_tensor(each) for each in gradients if each is not None]

    terms, gradients = step(batch)
    filled_terms, filled_gradients = step(filled_batch(batch, 8))
    for name, value in terms.items():
        np.testing.assert_allclose(filled_terms[name], value, rtol=1e-5, err_msg=name)
    for one, other in zip(gradients, filled_gradients, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)
