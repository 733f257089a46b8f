"""The short way from a world to encoded tensors gives what the product's way gives."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest

from psad_tf.beam.pipeline import preprocess
from psad_tf.config import DataConfig
from psad_tf.data.batches import ListDataset
from psad_tf.data.list_folder import load_encoder
from psad_tf.datasets.simulator import SimulatorConfig, declaration, simulate
from psad_tf.datasets.simulator.encoded import EncodedLists, EncodedWorld

CONFIG = SimulatorConfig(
    lists=400, candidates=6, shown=4, items=60, categories=5, past_clicks=4.0, history_length=5, explore=0.3
)
DATA = DataConfig(batch_size=16, list_sizes=(6,))


def _sorted(batches: object) -> dict[str, np.ndarray]:
    """All lists of a split in an order that does not depend on the files."""
    collected: dict[str, list[np.ndarray]] = {}
    for batch in batches:  # type: ignore[attr-defined]
        for name, value in batch.items():
            collected.setdefault(name, []).append(value.numpy())
    joined = {name: np.concatenate(parts) for name, parts in collected.items()}
    keys = np.concatenate([joined["user_id"], joined["item_id"][..., 0]], axis=1)
    order = np.lexsort(keys.T)
    return {name: value[order] for name, value in joined.items()}


@pytest.fixture(scope="module")
def source() -> EncodedWorld:
    return EncodedWorld(CONFIG)


@pytest.mark.slow
def test_the_short_way_gives_what_the_job_and_the_encoder_give(
    source: EncodedWorld, tmp_path: pathlib.Path
) -> None:
    simulate(tmp_path / "raw", CONFIG)
    preprocess(tmp_path / "raw", tmp_path / "lists", declaration(CONFIG))
    encoder = load_encoder(tmp_path / "lists")
    assert source.declaration == encoder.declaration
    assert source.vocabulary_sizes == encoder.vocabulary_sizes
    for split in ("train", "valid", "test"):
        expected = _sorted(ListDataset(tmp_path / "lists", split, encoder, DATA).batches())
        found = _sorted(source.dataset(split, DATA).batches())
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype, name
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=2e-5, err_msg=name)


def test_the_halves_of_the_users_are_those_of_the_list_folder(source: EncodedWorld) -> None:
    counts = {}
    for users in ("even", "odd", "all"):
        lists = source.dataset("train", dataclasses.replace(DATA, users=users))
        ids = np.concatenate([batch["user_id"].numpy() for batch in lists.batches()])
        assert len(ids) == lists.count and (users == "all" or set(ids.ravel() % 2) == {int(users == "odd")})
        counts[users] = lists.count
    assert counts["even"] + counts["odd"] == counts["all"]


def test_an_epoch_has_every_list_once_in_an_order_of_its_own(source: EncodedWorld) -> None:
    lists = source.dataset("train", DataConfig(batch_size=8))
    assert isinstance(lists, EncodedLists) and lists.steps_per_epoch == lists.count // 8
    first, again, second = (_sorted(lists.training_batches(1, epoch)) for epoch in (0, 0, 1))
    everything = _sorted(lists.batches())
    np.testing.assert_array_equal(first["item_id"], again["item_id"])
    np.testing.assert_array_equal(first["item_id"], everything["item_id"])
    np.testing.assert_array_equal(second["item_id"], everything["item_id"])
    one, other = (next(iter(lists.training_batches(1, epoch))) for epoch in (0, 1))
    assert not np.array_equal(one["item_id"], other["item_id"])
