"""`psad simulate`: writes the logs of a click world with a known optimum as a raw data folder."""

from __future__ import annotations

import argparse

from psad_tf.datasets.simulator.config import POLICY_NAMES, PRESETS, SimulatorConfig

HELP = "write the logs of a simulated click world, with a known optimum, as a raw data folder"
_HEADROOM_LISTS = 2_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad simulate`."""
    parser.add_argument("--output_dir", required=True, help="the raw data folder to write")
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="ratings",
        help="the world: items change each other's worth (interactions), they do not (independent), or all "
        "are shown in random order and do so weakly (ratings, the default)",
    )
    parser.add_argument("--lists", type=int, default=10_000, help="lists to log")
    parser.add_argument("--candidates", type=int, help="candidates of a list (the preset's: 20)")
    parser.add_argument("--shown", type=int, help="candidates that a list shows, 0 for all (the preset's)")
    parser.add_argument("--items", type=int, help="items in the world (the preset's: 2,000)")
    parser.add_argument(
        "--policy",
        choices=POLICY_NAMES,
        help="what the shown lists are ordered by: the initial ranker (the default) or a previous reranker",
    )
    parser.add_argument("--explore", type=float, help="share of the lists that are random (the preset's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and its logs")
    parser.add_argument("--workers", type=int, default=1, help="processes; the output does not depend on it")


def run(arguments: argparse.Namespace) -> None:
    """Simulates, and says what was made, where, how fast, and how good its lists could have been."""
    import dataclasses
    import sys
    import time

    from psad_tf.data.records import IMPRESSIONS
    from psad_tf.datasets.simulator import simulate

    given = {
        name: getattr(arguments, name)
        for name in ("lists", "candidates", "shown", "items", "policy", "explore", "seed")
        if getattr(arguments, name) is not None
    }
    if "candidates" in given and "shown" not in given:
        given["shown"] = min(PRESETS[arguments.preset].shown, given["candidates"])
    config = dataclasses.replace(PRESETS[arguments.preset], **given)
    started = time.monotonic()
    counts = simulate(arguments.output_dir, config, arguments.workers, progress=sys.stderr.isatty())
    seconds = time.monotonic() - started
    lists = counts[IMPRESSIONS]
    made = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if kind != IMPRESSIONS)
    print(f"simulated {lists:,} lists ({made}) in {seconds:.1f} s ({lists / seconds:,.0f} lists/s)")
    print(headroom_table(config))
    print(f"in {arguments.output_dir}")


def headroom_table(config: SimulatorConfig) -> str:
    """What the lists of a world could be worth, as a table."""
    from psad_tf.datasets.simulator import World, headroom
    from psad_tf.datasets.simulator.logs import log_block
    from psad_tf.datasets.simulator.policies import POLICIES

    world = World(config)
    logs = log_block(world, POLICIES[config.policy], 0)
    items = logs.items[:_HEADROOM_LISTS]
    users = world.users_numbered(logs.user[:_HEADROOM_LISTS])
    values = {name: each.mean() for name, each in headroom(world, users, items).items()}
    lines = [
        f"expected clicks on {config.slots} slots, the mean of {len(items):,} lists, by who orders them:"
    ]
    lines += [
        f"  {name:<10} {value:.4f}  {value / values['greedy']:7.1%} of greedy"
        for name, value in values.items()
    ]
    return "\n".join(lines)
