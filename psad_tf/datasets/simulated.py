"""Logs of the simulated world as a raw data folder, of any size, by any number of processes.

The users come in blocks; everything about a block's users (past clicks, lists, clicks) follows from the
world's seed and the block's number, so the output does not depend on the number of processes. Blocks are
written in order while later ones are made.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator

import numpy as np

from psad_tf.data.records import IMPRESSIONS, INTERACTIONS, ITEMS, USERS
from psad_tf.datasets.raw_data import RAW_FILES, write_declaration
from psad_tf.datasets.simulator import USERS_IN_A_BLOCK, SimulatorConfig, World
from psad_tf.datasets.simulator import Users as SimulatedUsers
from psad_tf.errors import InputError
from psad_tf.features import (
    SPLITS,
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
    HistoryDeclaration,
    LabelDeclaration,
    LabelRule,
)
from psad_tf.files import check_replaceable, replaced_directory

_SECONDS_A_DAY = 86_400
_SECONDS_A_SLOT = 5
_PAST_DAYS = 60
_BLOCKS_AHEAD = 4


def declaration(config: SimulatorConfig) -> FeatureDeclaration:
    """The features of the simulated logs."""
    return FeatureDeclaration(
        context_categorical=(CategoricalFeature("user_id"), CategoricalFeature("segment")),
        context_dense=(DenseFeature("age"),),
        history=HistoryDeclaration(
            length=50,
            categorical=(CategoricalFeature("item_id"), CategoricalFeature("category")),
            dense=(DenseFeature("age_seconds", "log1p_standardize"),),
        ),
        candidate_categorical=(CategoricalFeature("item_id"), CategoricalFeature("category")),
        candidate_dense=(DenseFeature("initial_score"), DenseFeature("popularity")),
        label=LabelDeclaration(grades=(LabelRule("click", 1.0, 1),)),
        max_candidates=max(200, config.candidates),
    )


@dataclasses.dataclass(frozen=True)
class _Block:
    """The JSON lines of one block's users."""

    impressions: str
    interactions: str
    users: str
    lists: int
    clicks: int


def simulate(
    output_dir: str | os.PathLike[str], config: SimulatorConfig, workers: int = 1, progress: bool = False
) -> dict[str, int]:
    """Writes a raw data folder of simulated logs.

    Args:
        output_dir: The folder; an existing one is replaced when the new one is whole.
        config: The world and the number of lists.
        workers: Processes that make the logs; the output is the same for any number.
        progress: Show how many lists are done on stderr.

    Returns:
        Number of records of each kind, and of `clicks`.

    Raises:
        InputError: `workers` is less than 1, or the folder cannot be written or holds something else.
    """
    if workers < 1:
        raise InputError(f"workers: must be at least 1, got {workers}")
    check_replaceable(output_dir, RAW_FILES)
    counts: collections.Counter[str] = collections.Counter()
    with replaced_directory(output_dir) as folder, contextlib.ExitStack() as stack:
        files = {
            kind: stack.enter_context(open(os.path.join(folder, f"{kind}.jsonl"), "w", encoding="utf-8"))
            for kind in (IMPRESSIONS, INTERACTIONS, USERS, ITEMS)
        }
        files[ITEMS].write(_items(World(config)))
        counts[ITEMS] = config.items
        for block in _blocks(config, workers):
            files[IMPRESSIONS].write(block.impressions)
            files[INTERACTIONS].write(block.interactions)
            files[USERS].write(block.users)
            counts[IMPRESSIONS] += block.lists
            counts[INTERACTIONS] += block.interactions.count("\n")
            counts[USERS] += block.users.count("\n")
            counts["clicks"] += block.clicks
            if progress:
                print(f"\r  {counts[IMPRESSIONS]:,} of {config.lists:,} lists", end="", file=sys.stderr)
        if progress:
            print(file=sys.stderr)
        write_declaration(declaration(config), folder)
    return dict(counts)


def _blocks(config: SimulatorConfig, workers: int) -> Iterator[_Block]:
    """The blocks in order; with several workers, a few of them are made ahead."""
    numbers = range(-(-config.users // USERS_IN_A_BLOCK))
    if workers == 1 or len(numbers) == 1:
        world = World(config)
        for number in numbers:
            yield _make_block(world, number)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(numbers)), context, initializer=_start_worker, initargs=(config,)
    ) as pool:
        waiting: collections.deque[concurrent.futures.Future[_Block]] = collections.deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(_work, number))
                if len(waiting) >= workers * _BLOCKS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker_world: World | None = None


def _start_worker(config: SimulatorConfig) -> None:
    global _worker_world
    _worker_world = World(config)


def _work(number: int) -> _Block:
    assert _worker_world is not None
    return _make_block(_worker_world, number)


def _make_block(world: World, number: int) -> _Block:
    config, random = world.config, world.log_random(number)
    first_user = number * USERS_IN_A_BLOCK
    users = world.users_of_block(number).take(slice(0, min(USERS_IN_A_BLOCK, config.users - first_user)))
    size = len(users.types)
    # The last user of all may have fewer rounds, so that there are exactly `config.lists` lists.
    index = np.arange(first_user * config.lists_per_user, (first_user + size) * config.lists_per_user)
    index = index[index < config.lists]
    owner = index // config.lists_per_user - first_user  # [lists]
    round_of = index % config.lists_per_user
    times = config.start_time + round_of * _SECONDS_A_DAY
    times += random.integers(_SECONDS_A_DAY // 2, size=len(index))
    owners = users.take(owner)
    lists = _draw_candidates(random, len(index), config)
    scores = world.quality[lists] + np.take_along_axis(owners.first, world.categories[lists], axis=1)
    scores += config.ranker_noise * random.standard_normal(lists.shape)
    order = np.argsort(-scores, axis=1, kind="stable")
    lists, scores = np.take_along_axis(lists, order, axis=1), np.take_along_axis(scores, order, axis=1)
    slots = _shown_slots(random, lists.shape, config.explore)
    shown = np.empty_like(lists)
    np.put_along_axis(shown, slots, lists, axis=1)
    shown_clicks = random.random(lists.shape) < world.click_probabilities(owners, shown)
    clicks = np.take_along_axis(shown_clicks, slots, axis=1)
    interactions = _past_clicks(world, random, users, first_user)
    interactions += [
        _interaction(first_user + owner[row], shown[row, slot], times[row] + _SECONDS_A_SLOT * (slot + 1))
        for row, slot in np.argwhere(shown_clicks)
    ]
    return _Block(
        impressions=_impressions(world, first_user + owner, round_of, times, lists, scores, slots, clicks),
        interactions="".join(interactions),
        users="".join(
            f'{{"user_id":"u{first_user + row}","segment":"s{segment}","age":{age}}}\n'
            for row, (segment, age) in enumerate(zip(users.segments, users.ages, strict=True))
        ),
        lists=len(index),
        clicks=int(clicks.sum()),
    )


def _draw_candidates(random: np.random.Generator, lists: int, config: SimulatorConfig) -> np.ndarray:
    """Sets of distinct items, each equally likely: int [lists, candidates]."""
    if config.items < config.candidates**2:
        keys = random.random((lists, config.items))
        return np.argsort(keys, axis=1)[:, : config.candidates]
    drawn = random.integers(config.items, size=(lists, config.candidates))
    while True:
        ordered = np.sort(drawn, axis=1)
        repeated = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(repeated):
            return drawn
        drawn[repeated] = random.integers(config.items, size=(len(repeated), config.candidates))


def _shown_slots(random: np.random.Generator, shape: tuple[int, ...], explore: float) -> np.ndarray:
    """The slot that each candidate is shown in: its rank, or a random one in the explored lists."""
    shuffled = np.argsort(random.random(shape), axis=1)
    explored = random.random(shape[0]) < explore
    return np.where(explored[:, np.newaxis], shuffled, np.arange(shape[1]))


def _past_clicks(
    world: World, random: np.random.Generator, users: SimulatedUsers, first_user: int
) -> list[str]:
    """Clicks before the first round: items of categories that interest the user, at any slot's interest."""
    config = world.config
    counts = random.poisson(config.past_clicks, size=len(users.types))
    owner = np.repeat(np.arange(len(counts)), counts)
    if not len(owner):
        return []
    # Of two items shown together the user clicks by interest: Gumbel's maximum draws from the softmax.
    shown = random.integers(config.items, size=(len(owner), 8))
    interest = users.take(owner).interest(random.integers(config.candidates, size=len(owner)))
    logits = world.quality[shown] + np.take_along_axis(interest, world.categories[shown], axis=1)
    best = (logits + random.gumbel(size=shown.shape)).argmax(axis=1)
    items = shown[np.arange(len(owner)), best]
    times = config.start_time - random.integers(1, _PAST_DAYS * _SECONDS_A_DAY, size=len(owner))
    return [
        _interaction(first_user + user, item, time)
        for user, item, time in zip(owner.tolist(), items.tolist(), times.tolist(), strict=True)
    ]


def _interaction(user: int, item: int, time: int) -> str:
    return f'{{"user_id":"u{user}","item_id":"i{item}","time":{time},"feedback":{{"click":1}}}}\n'


def _impressions(
    world: World,
    users: np.ndarray,
    rounds: np.ndarray,
    times: np.ndarray,
    lists: np.ndarray,
    scores: np.ndarray,
    slots: np.ndarray,
    clicks: np.ndarray,
) -> str:
    """JSON lines, put together from strings: several times faster than a JSON encoder."""
    lines = []
    columns = (
        users.tolist(),
        rounds.tolist(),
        times.tolist(),
        lists.tolist(),
        scores.tolist(),
        slots.tolist(),
        clicks.tolist(),
    )
    for user, round_of, time, items, item_scores, item_slots, clicked in zip(*columns, strict=True):
        candidates = ",".join(
            [
                f'{{"item_id":"i{item}","initial_score":{score:.5f},"position":{slot},'
                f'"feedback":{{"click":{click:d}}}}}'
                for item, score, slot, click in zip(items, item_scores, item_slots, clicked, strict=True)
            ]
        )
        lines.append(
            f'{{"request_id":"u{user}-{round_of}","user_id":"u{user}","time":{time},'
            f'"split":"{_split(round_of, world.config.lists_per_user)}","candidates":[{candidates}]}}\n'
        )
    return "".join(lines)


def _split(round_of: int, rounds: int) -> str:
    """By time: the last tenth of the rounds (at least one) is test, the tenth before it validation."""
    share = max(1, rounds // 10)
    return SPLITS[0 if round_of < rounds - 2 * share else 1 if round_of < rounds - share else 2]


def _items(world: World) -> str:
    return "".join(
        json.dumps(
            {"item_id": f"i{item}", "category": f"c{category}", "popularity": round(float(popularity), 5)}
        )
        + "\n"
        for item, (category, popularity) in enumerate(zip(world.categories, world.popularity, strict=True))
    )
