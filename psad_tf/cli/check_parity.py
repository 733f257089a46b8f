"""`psad check-parity`: exported and in-process answers must agree."""

from __future__ import annotations

import argparse

HELP = "compare an exported model with its run on real lists; exit code 1 where they differ"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad check-parity`."""
    parser.add_argument("--run_dir", required=True, help="run folder that 'psad train' wrote")
    parser.add_argument("--model_dir", required=True, help="exported version, <base>/<model>/<version>")
    parser.add_argument("--lists_dir", required=True, help="folder of lists")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"), help="which lists")
    parser.add_argument("--n", type=int, default=200, help="number of lists")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        help="largest difference that passes, relative to scores above 1; float16 weights need about 1e-3",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the differences; 1 when one is above the tolerance."""
    from psad_tf.export.parity import check_parity

    found = check_parity(
        arguments.run_dir,
        arguments.model_dir,
        arguments.lists_dir,
        split=arguments.split,
        n=arguments.n,
        tolerance=arguments.tolerance,
    )
    print(f"{'signature':<18}{'max difference':>16}{'same order':>12}{'median ms':>11}")
    for name, difference in found.max_abs_diff.items():
        print(f"{name:<18}{difference:>16.2e}{found.same_order[name]:>12.1%}{found.latency_ms[name]:>11.2f}")
    print(
        f"NDCG@10 {found.ndcg_at_10:.4f} exported, {found.ndcg_at_10_in_process:.4f} in process; "
        f"{found.bytes:,} bytes"
    )
    verdict = "agrees with its run" if found.passed else "DIFFERS from its run"
    print(
        f"{arguments.model_dir}: {verdict} on {found.lists} lists "
        f"(tolerance {found.tolerance:g}, largest score {found.max_abs_score:.3g})"
    )
    return 0 if found.passed else 1
