"""LibRerank's processed data sets Ad (Taobao display ads) and PRM (Taobao recommendations).

Source: the LibRerank toolkit, whose folder of a data set holds, of each of two stages,

- `data.train`, `data.valid`, `data.test`: text; a line is a list, its five tab-separated fields Python
  literals: user id, profile [profile features], items' sparse features [items][sparse features], items'
  dense features [items][dense features], labels [items]. The order is the logged one.
- `<ranker>.rankings.train`, `<ranker>.rankings.test`: pickles of its initial ranker's lists, best first:
  [users, profiles, sparse, dense, labels, positions, lengths], each an entry a list. `positions` are
  those in the logged order, and become the candidates' positions.

With `ranker` the second is read, else the first. Literals are parsed and pickles are read without running
anything in them. The first sparse feature is the item, the second its category.

The files have no times. Lists are numbered in the files' order, train before valid before test, a minute
apart from 2000-01-01, so that a split by time gives the published one; each list also names its split. In
the rankings the first entry is not the user's id and there is no validation part: every list is a user of
its own there, without a history, and every tenth training list is validation. In the text files a user's
history is the clicks of the user's earlier lists in this order.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from psad_tf.data.records import Candidate, Impression, Interaction, Value
from psad_tf.datasets.plain_pickle import load_plain_pickle
from psad_tf.datasets.raw_data import RawData
from psad_tf.datasets.tables import read_tab_separated
from psad_tf.errors import InputError
from psad_tf.features import (
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
    HistoryDeclaration,
    LabelDeclaration,
    LabelRule,
)

_FIRST_TIME = 946_684_800
_SECONDS_A_LIST = 60
_VALID_EVERY = 10


@dataclasses.dataclass(frozen=True)
class _List:
    """One list of either kind of file."""

    user_id: str
    profile: Sequence[Any]
    sparse: Sequence[Sequence[Any]]
    dense: Sequence[Sequence[float]]
    labels: Sequence[float]
    positions: Sequence[float]
    split: str
    where: str


def read_librerank(folder: str | os.PathLike[str], ranker: str = "") -> RawData:
    """Reads a data set's folder.

    Args:
        folder: Holds the files.
        ranker: Name before `.rankings.train`, `DNN` or `lambdaMART`; empty reads the text files.

    Raises:
        InputError: A file is missing or is not of the published form; names file and list.
    """
    root = pathlib.Path(folder)
    first = next(_lists(root, ranker), None)
    if first is None:
        raise InputError(f"{root}: the first file has no list")
    _check(first)
    return RawData(
        declaration=_declaration(first),
        impressions=_impressions(root, ranker),
        interactions=() if ranker else _clicks(root),
        users=_users(root, ranker),
        items=_items(root, ranker),
    )


def _declaration(example: _List) -> FeatureDeclaration:
    profile = [CategoricalFeature(name) for name in _names("profile", example.profile)]
    sparse = [CategoricalFeature(name) for name in _names("item_feature", example.sparse[0][1:])]
    dense = [DenseFeature(name) for name in _names("item_dense", _row(example.dense, 0))]
    return FeatureDeclaration(
        context_categorical=(CategoricalFeature("user_id"), *profile),
        context_dense=(),
        history=HistoryDeclaration(length=20, categorical=(CategoricalFeature("item_id"), *sparse)),
        candidate_categorical=(CategoricalFeature("item_id"), *sparse),
        candidate_dense=(DenseFeature("initial_score"), *dense),
        label=LabelDeclaration(grades=(LabelRule("click", 1.0, 1),)),
    )


def _names(prefix: str, values: Sequence[Any]) -> list[str]:
    return [f"{prefix}_{index + 1}" for index in range(len(values))]


def _row(rows: Sequence[Sequence[float]], index: int) -> Sequence[float]:
    return rows[index] if len(rows) else ()


def _impressions(root: pathlib.Path, ranker: str) -> Iterator[Impression]:
    for index, each in enumerate(_lists(root, ranker)):
        _check(each)
        shown: dict[str, Candidate] = {}
        slots: dict[str, float] = {}
        for position, (sparse, label) in enumerate(zip(each.sparse, each.labels, strict=True)):
            features: dict[str, Value] = dict(
                zip(_names("item_feature", sparse[1:]), map(_text, sparse[1:]), strict=True)
            )
            dense = _row(each.dense, position)
            features |= zip(_names("item_dense", dense), map(float, dense), strict=True)
            candidate = Candidate(_text(sparse[0]), float(-position), {"click": float(label)}, features)
            earlier = shown.setdefault(candidate.item_id, candidate)
            slots.setdefault(candidate.item_id, float(each.positions[position]))
            if candidate.feedback["click"] > earlier.feedback["click"]:
                shown[candidate.item_id] = dataclasses.replace(earlier, feedback=candidate.feedback)
        # Numbered anew, since an item that a list names twice is one candidate.
        for slot, item_id in enumerate(sorted(slots, key=slots.__getitem__)):
            shown[item_id] = dataclasses.replace(shown[item_id], position=slot)
        yield Impression(
            request_id=f"{each.split}-{index}",
            user_id=each.user_id,
            time=_time(index),
            candidates=tuple(shown.values()),
            context=dict(zip(_names("profile", each.profile), map(_text, each.profile), strict=True)),
            split=each.split,
        )


def _clicks(root: pathlib.Path) -> Iterator[Interaction]:
    for index, each in enumerate(_lists(root, "")):
        for sparse, label in zip(each.sparse, each.labels, strict=True):
            if label:
                yield Interaction(each.user_id, _text(sparse[0]), _time(index), {"click": 1.0})


def _users(root: pathlib.Path, ranker: str) -> Iterator[dict[str, Value]]:
    seen = set()
    for each in _lists(root, ranker):
        if each.user_id not in seen:
            seen.add(each.user_id)
            yield {"user_id": each.user_id}


def _items(root: pathlib.Path, ranker: str) -> Iterator[dict[str, Value]]:
    """Each item with the sparse features of its first appearance, for the histories."""
    seen = set()
    for each in _lists(root, ranker):
        for sparse in each.sparse:
            item_id = _text(sparse[0])
            if item_id not in seen:
                seen.add(item_id)
                values = zip(_names("item_feature", sparse[1:]), map(_text, sparse[1:]), strict=True)
                yield {"item_id": item_id, **dict(values)}


def _lists(root: pathlib.Path, ranker: str) -> Iterator[_List]:
    if ranker:
        yield from _pickled(root / f"{ranker}.rankings.train", True)
        yield from _pickled(root / f"{ranker}.rankings.test", False)
    else:
        for split in ("train", "valid", "test"):
            yield from _texts(root / f"data.{split}", split)


def _texts(path: pathlib.Path, split: str) -> Iterator[_List]:
    for where, fields in read_tab_separated(path, 5):
        try:
            user, profile, sparse, dense, labels = (ast.literal_eval(field) for field in fields)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise InputError(f"{where}: a field is not a Python literal") from None
        yield _List(f"u{user}", profile, sparse, dense, labels, range(len(labels)), split, where)


def _pickled(path: pathlib.Path, training: bool) -> Iterator[_List]:
    data = load_plain_pickle(path)
    if not isinstance(data, list | tuple) or len(data) != 7:
        raise InputError(
            f"{path}: expected 7 lists: users, profiles, sparse, dense, labels, positions, lengths"
        )
    _, profiles, sparse, dense, labels, positions, lengths = data
    if len(set(map(len, (profiles, sparse, dense, labels, positions, lengths)))) != 1:
        raise InputError(f"{path}: its lists differ in length")
    for index, length in enumerate(lengths):
        held_out = "valid" if index % _VALID_EVERY == _VALID_EVERY - 1 else "train"
        split = held_out if training else "test"
        yield _List(
            user_id=f"{split}-{index}",
            profile=profiles[index],
            sparse=sparse[index][:length],
            dense=dense[index][:length],
            labels=labels[index][:length],
            positions=positions[index][:length],
            split=split,
            where=f"{path}: list {index}",
        )


def _check(each: _List) -> None:
    """A list's parts must be sequences of one length, of rows that are sequences."""
    parts = {"profile": each.profile, "sparse": each.sparse, "dense": each.dense, "labels": each.labels}
    for name, part in parts.items():
        if not isinstance(part, list | tuple | np.ndarray):
            raise InputError(f"{each.where}: {name}: expected a list, got {type(part).__name__}")
    rows = [*each.sparse, *each.dense]
    if not all(isinstance(row, list | tuple | np.ndarray) for row in rows):
        raise InputError(f"{each.where}: an item's features are not a list")
    counts = [len(each.sparse), len(each.dense), len(each.labels), len(each.positions)]
    if not counts[0] or len(set(counts)) != 1:
        raise InputError("{}: {} items, {} dense rows, {} labels, {} positions".format(each.where, *counts))
    if min(map(len, each.sparse)) < 1:
        raise InputError(f"{each.where}: an item has no sparse features, so no id")
    try:
        [float(value) for row in (each.labels, each.positions, *each.dense) for value in row]
    except (TypeError, ValueError):
        raise InputError(f"{each.where}: a label, position or dense feature is not a number") from None


def _time(index: int) -> int:
    return _FIRST_TIME + _SECONDS_A_LIST * index


def _text(value: Any) -> str:
    """An id as text; PRM's are whole numbers stored as floats."""
    number = float(value) if isinstance(value, int | float | np.number) else None
    return str(int(number)) if number is not None and number.is_integer() else str(value)
