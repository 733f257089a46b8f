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
from psad_tf.datasets.simulator.config import SimulatorConfig
from psad_tf.datasets.simulator.logs import LogBlock, log_block, split_of
from psad_tf.datasets.simulator.policies import POLICIES, Policy
from psad_tf.datasets.simulator.world import USERS_IN_A_BLOCK, World
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

_BLOCKS_AHEAD = 4


def declaration(config: SimulatorConfig) -> FeatureDeclaration:
    """The features of the simulated logs."""
    return FeatureDeclaration(
        context_categorical=(CategoricalFeature("user_id"), CategoricalFeature("segment")),
        context_dense=(DenseFeature("age"),),
        history=HistoryDeclaration(
            length=config.history_length,
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
    output_dir: str | os.PathLike[str],
    config: SimulatorConfig,
    workers: int = 1,
    progress: bool = False,
    policy: Policy | None = None,
) -> dict[str, int]:
    """Writes a raw data folder of simulated logs.

    Args:
        output_dir: The folder; an existing one is replaced when the new one is whole.
        config: The world and the number of lists.
        workers: Processes that make the logs; the output is the same for any number.
        progress: Show how many lists are done on stderr.
        policy: Scores by which the lists that are not random are shown; by default the one that
            `config.policy` names. With several workers it must be a function of a module.

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
        for block in _blocks(config, policy or POLICIES[config.policy], workers):
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


def _blocks(config: SimulatorConfig, policy: Policy, workers: int) -> Iterator[_Block]:
    """The blocks in order; with several workers, a few of them are made ahead."""
    numbers = range(-(-config.users // USERS_IN_A_BLOCK))
    if workers == 1 or len(numbers) == 1:
        world = World(config)
        for number in numbers:
            yield _make_block(world, policy, number)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(numbers)), context, initializer=_start_worker, initargs=(config, policy)
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


_worker: tuple[World, Policy] | None = None


def _start_worker(config: SimulatorConfig, policy: Policy) -> None:
    global _worker
    _worker = World(config), policy


def _work(number: int) -> _Block:
    assert _worker is not None
    return _make_block(*_worker, number)


def _make_block(world: World, policy: Policy, number: int) -> _Block:
    logs = log_block(world, policy, number)
    numbers = logs.first_user + np.arange(len(logs.users.types))
    return _Block(
        impressions=_impressions(world, logs),
        interactions="".join(
            f'{{"user_id":"u{user}","item_id":"i{item}","time":{time},"feedback":{{"click":1}}}}\n'
            for user, item, time in zip(
                logs.event_user.tolist(), logs.event_item.tolist(), logs.event_time.tolist(), strict=True
            )
        ),
        users="".join(
            f'{{"user_id":"u{user}","segment":"s{segment}","age":{age}}}\n'
            for user, segment, age in zip(numbers, logs.users.segments, logs.users.ages, strict=True)
        ),
        lists=len(logs.user),
        clicks=int(logs.clicks.sum()),
    )


def _impressions(world: World, logs: LogBlock) -> str:
    """JSON lines, put together from strings: several times faster than a JSON encoder."""
    lines = []
    rounds, lists_per_user = logs.round_of.tolist(), world.config.lists_per_user
    columns = (logs.user, logs.times, logs.items, logs.scores, logs.slots, logs.clicks)
    for round_of, (user, time, *candidates) in zip(
        rounds, zip(*(column.tolist() for column in columns), strict=True), strict=True
    ):
        written = ",".join(
            [
                f'{{"item_id":"i{item}","initial_score":{score:.5f}}}'
                if slot < 0
                else f'{{"item_id":"i{item}","initial_score":{score:.5f},"position":{slot},'
                f'"feedback":{{"click":{click:d}}}}}'
                for item, score, slot, click in zip(*candidates, strict=True)
            ]
        )
        lines.append(
            f'{{"request_id":"u{user}-{round_of}","user_id":"u{user}","time":{time},'
            f'"split":"{SPLITS[split_of(round_of, lists_per_user)]}","candidates":[{written}]}}\n'
        )
    return "".join(lines)


def _items(world: World) -> str:
    return "".join(
        json.dumps({"item_id": f"i{item}", "category": f"c{category}", "popularity": popularity}) + "\n"
        for item, (category, popularity) in enumerate(
            zip(world.categories, world.popularity.round(5).tolist(), strict=True)
        )
    )
