"""The world: its law by hand, its optimum by enumeration, its logs the same for any number of workers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pathlib

import numpy as np
import pytest

from psad_tf.data.records import KINDS, check_attributes, check_impression, check_interaction, read_json_lines
from psad_tf.datasets.simulator import PRESETS, SimulatorConfig, World, declaration, simulate
from psad_tf.datasets.simulator.logs import log_block
from psad_tf.datasets.simulator.oracles import (
    beam_order,
    greedy_lists,
    headroom,
    pointwise_order,
    true_values,
)
from psad_tf.datasets.simulator.policies import POLICIES
from psad_tf.datasets.simulator.world import Users
from psad_tf.errors import InputError
from psad_tf.features import load_declaration

SMALL = SimulatorConfig(lists=600, candidates=5, items=40, lists_per_user=3, seed=3)


@pytest.fixture(scope="module")
def world() -> World:
    return World(SMALL)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("world") / "raw"
    simulate(folder, SMALL)
    return {kind: list(read_json_lines(folder / f"{kind}.jsonl")) for kind in KINDS}


def _by_hand(world: World, user_id: str, item_ids: list[str]) -> float:
    """The documented formula, one slot after another."""
    config, users, utility = world.config, world.users([user_id]), 0.0
    shown: list[int] = []
    for slot, item_id in enumerate(item_ids):
        item = int(item_id[1:])
        category = int(world.categories[item])
        weight = math.exp(-users.drift[0] * slot)
        interest = weight * users.first[0][category] + (1 - weight) * users.second[0][category]
        logit = config.bias + world.quality[item] + interest - config.repeat * shown.count(category)
        if category % 2 == 1 and category - 1 in shown:
            logit += config.complement
        utility += (slot + 1) ** -config.position_bias / (1 + math.exp(-logit))
        shown.append(category)
    return utility


def test_expected_utility_is_the_documented_formula(world: World) -> None:
    random = np.random.default_rng(0)
    for user in range(0, 200, 20):
        item_ids = [f"i{item}" for item in random.choice(40, 8, replace=False)]
        expected = _by_hand(world, f"u{user}", item_ids)
        assert world.expected_utility(f"u{user}", item_ids) == pytest.approx(expected, rel=1e-12)


def test_expected_utilities_of_many_lists_are_those_of_each(world: World) -> None:
    lists = [["i1", "i2", "i3"], ["i9", "i8", "i7"]]
    alone = [world.expected_utility(user, each) for user, each in zip(["u5", "u190"], lists, strict=True)]
    assert world.expected_utilities(["u5", "u190"], lists).tolist() == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("slots", [2, 5])
def test_no_list_is_better_than_the_best(world: World, slots: int) -> None:
    items = ["i3", "i11", "i25", "i30", "i38"]
    best, utility = world.best_list("u7", items, slots)
    assert len(best) == len(set(best)) == slots
    assert world.expected_utility("u7", best) == pytest.approx(utility)
    others = [_by_hand(world, "u7", list(each)) for each in itertools.permutations(items, slots)]
    assert utility == pytest.approx(max(others), rel=1e-12)


def test_greedy_takes_the_most_clickable_next(world: World) -> None:
    items = ["i3", "i11", "i25", "i30", "i38"]
    chosen: list[str] = []
    for _ in range(4):
        left = [item for item in items if item not in chosen]
        chosen.append(max(left, key=lambda item: _by_hand(world, "u7", [*chosen, item])))
    assert greedy_lists(world, ["u7"], [items], slots=4) == [chosen]


def test_order_matters_beyond_relevance() -> None:
    world = World(SimulatorConfig(lists=300, candidates=6, seed=1))
    random = np.random.default_rng(1)
    lists = [[f"i{item}" for item in random.choice(2000, 6, replace=False)] for _ in range(40)]
    users = [f"u{number % 30}" for number in range(40)]
    first = world.users(users).first
    numbers = np.array([[int(item[1:]) for item in each] for each in lists])
    relevance = world.quality[numbers] + np.take_along_axis(first, world.categories[numbers], axis=1)
    by_relevance = [
        [each[index] for index in order]
        for each, order in zip(lists, np.argsort(-relevance, axis=1), strict=True)
    ]
    best = np.mean([world.best_list(user, each)[1] for user, each in zip(users, lists, strict=True)])
    assert best > 1.03 * world.expected_utilities(users, by_relevance).mean()


def test_a_wide_beam_finds_the_best_list(world: World) -> None:
    items = ["i3", "i11", "i25", "i30", "i38"]
    order = beam_order(world, world.users(["u7"]), world.numbers(items)[np.newaxis], 4, width=200)
    _, utility = world.best_list("u7", items, 4)
    shown = [items[index] for index in order[0]]
    assert world.expected_utility("u7", shown) == pytest.approx(utility, rel=1e-12)


def test_where_items_do_not_change_each_other_the_pointwise_order_is_the_best() -> None:
    config = dataclasses.replace(PRESETS["independent"], lists=300, candidates=5, shown=3, items=40)
    world = World(config)
    items = np.array([[1, 4, 9, 16, 25]])
    order = pointwise_order(world, world.users(["u3"]), items, 3)
    shown = [f"i{items[0, index]}" for index in order[0]]
    _, utility = world.best_list("u3", [f"i{item}" for item in items[0]], 3)
    assert world.expected_utility("u3", shown) == pytest.approx(utility, rel=1e-12)


def test_only_a_world_of_interactions_has_headroom_above_the_pointwise_oracle() -> None:
    shares = {}
    for name in ("interactions", "independent"):
        world = World(dataclasses.replace(PRESETS[name], lists=2000))
        items = np.random.default_rng(0).integers(0, 2000, (400, 20))
        values = headroom(world, world.users_numbered(np.arange(400) % 200), items)
        means = {oracle: value.mean() for oracle, value in values.items()}
        assert means["random"] < means["initial"] + 0.2 and means["greedy"] <= means["beam"] + 1e-9
        shares[name] = means["pointwise"] / means["greedy"]
    assert shares["interactions"] < 0.92 and shares["independent"] == pytest.approx(1.0, abs=1e-9)


def test_a_list_shows_some_of_its_candidates_and_logs_nothing_of_the_others(tmp_path: pathlib.Path) -> None:
    config = SimulatorConfig(lists=200, candidates=8, shown=3, items=40, explore=0.5, seed=2)
    counts = simulate(tmp_path / "raw", config)
    clicks = 0
    for each in read_json_lines(tmp_path / "raw" / "impressions.jsonl"):
        check_impression(each)
        shown = [candidate for candidate in each["candidates"] if "position" in candidate]
        assert sorted(_slot(candidate) for candidate in shown) == [0, 1, 2]
        assert sum("feedback" in candidate for candidate in each["candidates"]) == 3
        clicks += sum(candidate["feedback"]["click"] for candidate in shown)
    assert clicks == counts["clicks"]


def _by_number(
    world: World, users: Users, items: np.ndarray, scores: np.ndarray, random: object
) -> np.ndarray:
    return -items


def test_a_policy_decides_what_is_shown(tmp_path: pathlib.Path) -> None:
    config = SimulatorConfig(lists=60, candidates=6, shown=2, items=40, explore=0.0)
    simulate(tmp_path / "raw", config, policy=_by_number)
    for each in read_json_lines(tmp_path / "raw" / "impressions.jsonl"):
        shown = {_slot(c): int(c["item_id"][1:]) for c in each["candidates"] if "position" in c}
        assert [shown[0], shown[1]] == sorted(int(c["item_id"][1:]) for c in each["candidates"])[:2]


def test_a_previous_reranker_shows_better_lists_than_the_initial_ranker() -> None:
    values = {}
    for policy in ("initial", "reranker"):
        config = dataclasses.replace(PRESETS["interactions"], lists=1000, explore=0.0, policy=policy)
        world = World(config)
        logs = log_block(world, POLICIES[policy], 0)
        shown = np.argsort(np.where(logs.slots < 0, 99, logs.slots), axis=1)[:, : config.slots]
        values[policy] = true_values(world, world.users_numbered(logs.user), logs.items, shown).mean()
    assert values["reranker"] > 1.1 * values["initial"]


def test_too_many_lists_to_enumerate_are_refused(world: World) -> None:
    with pytest.raises(InputError, match="too many lists"):
        world.best_list("u1", [f"i{item}" for item in range(12)])


@pytest.mark.parametrize(("user", "item"), [("u200", "i1"), ("x1", "i1"), ("u1", "i40"), ("u1", "j1")])
def test_an_id_outside_the_world_is_named(world: World, user: str, item: str) -> None:
    with pytest.raises(InputError, match="is not in this world"):
        world.expected_utility(user, [item])


def _slot(candidate: dict) -> int:
    return candidate["position"]


@pytest.mark.parametrize(("explore", "initial"), [(0.0, 1.0), (1.0, 1 / 5)])
def test_explored_lists_are_shown_in_random_order(
    tmp_path: pathlib.Path, explore: float, initial: float
) -> None:
    config = SimulatorConfig(lists=1000, candidates=5, items=40, explore=explore)
    simulate(tmp_path / "raw", config)
    slots = np.array(
        [
            [_slot(candidate) for candidate in each["candidates"]]
            for each in read_json_lines(tmp_path / "raw" / "impressions.jsonl")
        ]
    )
    assert (slots == np.arange(5)).mean(axis=0) == pytest.approx(np.full(5, initial), abs=0.05)


def test_logged_clicks_follow_the_law(logs: dict[str, list[dict]], world: World) -> None:
    users = [each["user_id"] for each in logs["impressions"]]
    shown = [sorted(each["candidates"], key=_slot) for each in logs["impressions"]]
    assert all([_slot(candidate) for candidate in each] == list(range(5)) for each in shown)
    lists = np.array([[int(candidate["item_id"][1:]) for candidate in each] for each in shown])
    clicks = np.array([[candidate["feedback"]["click"] for candidate in each] for each in shown])
    probability = world.click_probabilities(world.users(users), lists)
    spread = np.sqrt((probability * (1 - probability)).sum(axis=0))
    assert (np.abs(clicks.sum(axis=0) - probability.sum(axis=0)) < 4 * spread).all()
    # Clicks happen where they are likely: the standardized excess over the list means is far from chance.
    assert np.corrcoef(clicks.ravel(), probability.ravel())[0, 1] > 0.25


def test_expected_utility_is_the_mean_of_logged_clicks(tmp_path: pathlib.Path) -> None:
    config = SimulatorConfig(lists=6000, candidates=6, items=60, lists_per_user=10, seed=11)
    simulate(tmp_path / "raw", config)
    users, lists, clicks = [], [], []
    for each in read_json_lines(tmp_path / "raw" / "impressions.jsonl"):
        shown = sorted(each["candidates"], key=_slot)
        users.append(each["user_id"])
        lists.append([candidate["item_id"] for candidate in shown])
        clicks.append(sum(candidate["feedback"]["click"] for candidate in shown))
    utilities, clicks = World(config).expected_utilities(users, lists), np.array(clicks)
    # Of all lists, and of those with low and with high utility apart: the mean, within four standard errors.
    for part in (slice(None), utilities < np.median(utilities), utilities >= np.median(utilities)):
        error = clicks[part].std() / np.sqrt(len(clicks[part]))
        assert clicks[part].mean() == pytest.approx(utilities[part].mean(), abs=4 * error)
        assert error < 0.02 * config.candidates


def test_every_logged_record_keeps_to_the_schema(logs: dict[str, list[dict]]) -> None:
    for impression in logs["impressions"]:
        check_impression(impression)
        scores = [candidate["initial_score"] for candidate in impression["candidates"]]
        assert scores == sorted(scores, reverse=True)
    for interaction in logs["interactions"]:
        check_interaction(interaction)
    for user in logs["users"]:
        check_attributes(user, "user_id")
    for item in logs["items"]:
        check_attributes(item, "item_id")


def test_clicks_and_nothing_else_become_interactions_after_the_request(logs: dict[str, list[dict]]) -> None:
    past = [each for each in logs["interactions"] if each["time"] < SMALL.start_time]
    assert len(past) == pytest.approx(SMALL.past_clicks * 200, rel=0.1)
    later = {
        (each["user_id"], each["item_id"], each["time"])
        for each in logs["interactions"]
        if each["time"] >= SMALL.start_time
    }
    clicked = {
        (each["user_id"], candidate["item_id"], each["time"] + 5 * (_slot(candidate) + 1))
        for each in logs["impressions"]
        for candidate in each["candidates"]
        if candidate["feedback"]["click"]
    }
    assert later == clicked


def test_splits_follow_each_other_in_time(logs: dict[str, list[dict]]) -> None:
    times = {
        split: [each["time"] for each in logs["impressions"] if each["split"] == split]
        for split in ("train", "valid", "test")
    }
    assert max(times["train"]) < min(times["valid"])
    assert max(times["valid"]) < min(times["test"])
    assert [len(each) for each in times.values()] == [200, 200, 200]


def test_types_show_in_segments_and_past_clicks(logs: dict[str, list[dict]], world: World) -> None:
    users = world.users([each["user_id"] for each in logs["users"]])
    agreed = np.mean(
        [each["segment"] == f"s{kind}" for each, kind in zip(logs["users"], users.types, strict=True)]
    )
    assert 0.55 < agreed < 0.8
    row = {each["user_id"]: index for index, each in enumerate(logs["users"])}
    past = [each for each in logs["interactions"] if each["time"] < SMALL.start_time]
    taste = [users.first[row[each["user_id"]]][world.categories[int(each["item_id"][1:])]] for each in past]
    assert np.mean(taste) > users.first.mean() + 0.3


@pytest.mark.parametrize("lists", [599, 1500])
def test_the_number_of_workers_changes_no_byte(tmp_path: pathlib.Path, lists: int) -> None:
    config = SimulatorConfig(lists=lists, candidates=4, items=30, lists_per_user=3, seed=5)
    alone = simulate(tmp_path / "one", config, workers=1)
    assert simulate(tmp_path / "three", config, workers=3) == alone
    assert alone["impressions"] == lists
    for name in [f"{kind}.jsonl" for kind in KINDS] + ["features.json"]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_another_seed_is_another_world(tmp_path: pathlib.Path) -> None:
    config = SimulatorConfig(lists=30, candidates=4, items=30)
    simulate(tmp_path / "a", config)
    simulate(tmp_path / "b", SimulatorConfig(**{**vars(config), "seed": 1}))
    for name in ("impressions.jsonl", "items.jsonl", "users.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("items", [25, 700])
def test_candidates_of_a_list_differ_and_are_drawn_evenly(tmp_path: pathlib.Path, items: int) -> None:
    simulate(tmp_path / "raw", SimulatorConfig(lists=1000, candidates=20, items=items))
    seen = np.zeros(items)
    with open(tmp_path / "raw" / "impressions.jsonl", encoding="utf-8") as file:
        for line in file:
            ids = {int(candidate["item_id"][1:]) for candidate in json.loads(line)["candidates"]}
            assert len(ids) == 20
            seen[list(ids)] += 1
    expected = 20_000 / items
    assert np.abs(seen - expected).max() < 6 * np.sqrt(expected)


def test_the_declaration_is_written_and_reads_back(tmp_path: pathlib.Path) -> None:
    simulate(tmp_path / "raw", SMALL)
    assert load_declaration(tmp_path / "raw" / "features.json") == declaration(SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lists": 5}, "lists: must be at least 10"),
        ({"candidates": 0}, "candidates"),
        ({"items": 10, "candidates": 20}, "10 items cannot fill"),
        ({"seed": -1}, "seed"),
        ({"shown": 21}, "shown: must be 0 to 20"),
        ({"explore": 1.5}, "explore"),
        ({"policy": "best"}, "policy: 'best' is not one of initial, reranker"),
        ({"lists_per_user": 2}, "lists_per_user"),
    ],
)
def test_an_impossible_world_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SimulatorConfig(**wrong)


def test_no_workers_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="workers"):
        simulate(tmp_path / "raw", SMALL, workers=0)
    assert not (tmp_path / "raw").exists()
