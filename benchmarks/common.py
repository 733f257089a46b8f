"""What the benchmarks share: prepared data, a resumable store of results, tables, significance."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import glob
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from psad_tf.errors import InputError
from psad_tf.files import replaced_file

WORK_DIR = os.path.join("runs", "bench")
RESULTS_DIR = os.path.join("benchmarks", "results")
MOVIELENS = "movielens-100k"
OPEN_BANDIT = "open-bandit-sample"
KUAIRAND = "kuairand"
_FLIPS = 20_000
_FLIPS_AT_ONCE = 100


def prepare(arguments: Sequence[str]) -> None:
    """Runs one step of the `psad` command in this process.

    Raises:
        InputError: The step failed.
    """
    from psad_tf.cli.main import main

    print(f"psad {' '.join(arguments)}", flush=True)
    code = main(list(arguments))
    if code:
        raise InputError(f"psad {' '.join(arguments)}: ended with code {code}")


# How the lists of a public data set are made: options of `psad build-lists`.
_BUILT = {
    MOVIELENS: ("--overlap_stride", "5"),
    OPEN_BANDIT: (),
    # Without request ids, runs of a user's impressions; the two-tower model learns from the first three days.
    KUAIRAND: ("--gap_seconds", "604800", "--split_dates", "20220428", "20220505", "20220507"),
}


def movielens_lists(work_dir: str = WORK_DIR) -> str:
    """The folder of MovieLens-100K's lists; made when it is not there."""
    return public_lists(MOVIELENS, work_dir)


def public_lists(data: str, work_dir: str = WORK_DIR, input_dir: str = "") -> str:
    """The folder of a public data set's lists; made when it is not there.

    Args:
        data: Name of the data set.
        work_dir: Where the lists go.
        input_dir: Its published files; "" downloads them.
    """
    folder = os.path.join(work_dir, data)
    lists = os.path.join(folder, "lists")
    if not os.path.isdir(lists):
        raw = os.path.join(folder, "raw")
        source = ("--input_dir", input_dir) if input_dir else ()
        prepare(["build-lists", "--dataset", data, "--output_dir", raw, *source, *_BUILT[data]])
        prepare(["preprocess", "--input_dir", raw, "--output_dir", lists])
    return lists


def data_fingerprint(lists_dir: str) -> str:
    """Tells the lists of one folder from all others: a hash of its files' hashes."""
    from psad_tf.data.list_folder import load_manifest

    files = load_manifest(lists_dir)["files"]
    return fingerprint({name: facts["sha256"] for name, facts in files.items()})


def fingerprint(data: Any) -> str:
    """16 hex digits that follow from JSON-ready data."""
    text = json.dumps(data, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_fingerprint(patterns: Sequence[str], package: str = "psad_tf") -> str:
    """Tells the code of some modules from any that computes something else.

    Comments, docstrings and layout do not count: the hash is of the syntax trees without docstrings.

    Args:
        patterns: Globs of files in the installed package.
        package: The package.
    """
    root = os.path.dirname(os.path.abspath(str(importlib.import_module(package).__file__)))
    paths = sorted(
        {path for pattern in patterns for path in glob.glob(os.path.join(glob.escape(root), pattern))}
    )
    trees = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                    del body[0]
        trees[os.path.relpath(path, root)] = ast.dump(tree)
    return fingerprint(trees)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON-ready")


class ResultStore:
    """Finished results in a JSON-lines file, so that a benchmark that was stopped resumes where it was.

    Args:
        path: The file; a last line that was cut short is passed over.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._results: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(json.JSONDecodeError, KeyError):
                    record = json.loads(line)
                    self._results[record["key"]] = record["result"]

    def find(self, key: Any) -> Any | None:
        """The result of `key`, or None when there is none yet."""
        return self._results.get(fingerprint(key))

    def result(self, key: Any, make: Callable[[], Any]) -> Any:
        """The result of `key`; when it is not there, makes it and writes it at once."""
        name = fingerprint(key)
        if name not in self._results:
            self._results[name] = result = make()
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                if file.tell() and not _ends_with_newline(self.path):
                    file.write("\n")
                file.write(json.dumps({"key": name, "of": key, "result": result}, default=_plain) + "\n")
        return self._results[name]


def _ends_with_newline(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and the values of the seeds."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": spread, "seeds": [float(value) for value in values]}


def mean_and_spread(summary: Mapping[str, Any], digits: int = 4) -> str:
    """What `summarize` gave as a table's cell: the mean, and the standard deviation of several seeds.

    >>> mean_and_spread(summarize([0.25, 0.75])), mean_and_spread(summarize([0.5]), 3)
    ('0.5000 ± 0.3536', '0.500')
    """
    spread = f" ± {summary['std']:.{digits}f}" if len(summary["seeds"]) > 1 else ""
    return f"{summary['mean']:.{digits}f}{spread}"


def paired_test(one: np.ndarray, other: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Sign-flip permutation test of the mean of paired differences.

    p = (1 + number of sign patterns with |mean| >= the one seen) / (1 + patterns), over 20,000 random
    patterns; the interval is the mean +- 1.96 standard errors.

    Args:
        one: float [lists]; lists where either is NaN are left out.
        other: float [lists].
        seed: Of the sign patterns.

    Returns:
        `difference` (one - other), `low`, `high`, `p` and `lists`.

    >>> facts = paired_test(np.array([0.9, 0.8, 0.7, 0.9] * 8), np.array([0.5, 0.5, 0.6, 0.4] * 8))
    >>> round(facts["difference"], 3), facts["p"] < 0.001
    (0.325, True)
    """
    both = ~(np.isnan(one) | np.isnan(other))
    differences = (one - other)[both]
    random = np.random.default_rng(seed)
    seen, extreme = abs(differences.mean()), 0
    for _ in range(_FLIPS // _FLIPS_AT_ONCE):
        signs = random.integers(0, 2, (_FLIPS_AT_ONCE, len(differences))) * 2 - 1
        extreme += int((np.abs((signs * differences).mean(1)) >= seen - 1e-15).sum())
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    mean = float(differences.mean())
    return {
        "difference": mean,
        "low": float(mean - 1.96 * error),
        "high": float(mean + 1.96 * error),
        "p": (1 + extreme) / (1 + _FLIPS),
        "lists": len(differences),
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for reading as text.

    >>> print(markdown_table(["model", "x"], [["a", "1.0"]]))
    | model |   x |
    |:------|----:|
    | a     | 1.0 |
    """
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (str(cell) for cell in cells)
        padded = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|:" + "-" * (widths[0] + 1) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def write_text(path: str, text: str) -> None:
    """Writes text whole or not at all."""
    with replaced_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")


def read_json(path: str, default: Any) -> Any:
    """Decoded JSON, or `default` when there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return default


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns an `InputError` into one line on stderr and exit code 2, as `psad` does."""
    try:
        yield
    except InputError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the entries of `new`, two levels deep: {data set: {model: ...}}."""
    return {
        name: {**old.get(name, {}), **new.get(name, {})} for name in [*old, *(n for n in new if n not in old)]
    }


def save_figure(figure: Any, path: str) -> None:
    """Writes a `matplotlib.figure.Figure` as PNG, in place of what is there when it is whole."""
    figure.tight_layout()
    with replaced_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
