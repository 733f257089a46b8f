"""The feature declaration: every feature named once, for parsing, schema, vocabularies and serving.

A record is an ExampleListWithContext: one *context* (user, history, request) and N *candidates*.
From one `FeatureDeclaration` come the parsing specification (`data/parsing.py`), the TFMD schema
(`beam/`), the names of the vocabulary files and the serving signature (`export/`).

Feature names on disk and on the wire:

| part      | name on the wire   | type and shape in one record                                    |
|-----------|--------------------|-----------------------------------------------------------------|
| context   | `<name>`           | categorical: `width` byte strings; dense: one float             |
| history   | `history_<name>`   | most recent first, n <= length items; `width` strings or a float each |
| candidate | `<name>`           | categorical: `width` byte strings; dense: one float             |
| candidate | `initial_rank`     | int64, 0 is the initial ranker's best                           |
| candidate | `shown_position`   | int64, the slot it was shown in, from 0; -1 if it was not shown |
| candidate | `relevance`        | float, graded label, 0 is irrelevant                            |
| candidate | `negative`         | float, 1 where feedback was explicitly negative                 |
| context   | `request_id`       | one byte string                                                 |
| context   | `request_time`     | int64, seconds since 1970-01-01 UTC                             |

Missing values: categorical `""`, dense NaN. A multi-valued categorical feature is padded with `""`
to its width.

This module imports nothing of the library but its error.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from psad_tf.errors import InputError

REQUEST_ID = "request_id"
REQUEST_TIME = "request_time"
ITEM_ID = "item_id"
USER_ID = "user_id"
INITIAL_SCORE = "initial_score"
INITIAL_RANK = "initial_rank"
RELEVANCE = "relevance"
NEGATIVE = "negative"
SHOWN_POSITION = "shown_position"
HISTORY_PREFIX = "history_"
AGE_SECONDS = "age_seconds"

# Ids of no value and of a value that the vocabulary lacks; the vocabulary's lines follow.
PADDING_ID = 0
UNKNOWN_ID = 1

RESERVED = frozenset({REQUEST_ID, REQUEST_TIME, INITIAL_RANK, SHOWN_POSITION, RELEVANCE, NEGATIVE})
SPLITS = ("train", "valid", "test")
DECLARATION_VERSION = 1
MAX_GRADE = 30  # the gain is 2^grade - 1, which float32 must hold beside small ones

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

Transform = Literal["none", "standardize", "log1p_standardize"]
_TRANSFORMS = ("none", "standardize", "log1p_standardize")


@dataclasses.dataclass(frozen=True)
class CategoricalFeature:
    """A feature of one or more string values.

    Args:
        name: Lower-case name, `[a-z][a-z0-9_]*`.
        vocabulary: Name of the vocabulary its values are looked up in; features that name the same
            vocabulary share ids and embeddings. Empty (the default) means a vocabulary of its own name.
        width: Number of values in a record; fewer are padded with `""`, more are cut.
    """

    name: str
    vocabulary: str = ""
    width: int = 1

    def __post_init__(self) -> None:
        if not self.vocabulary:
            object.__setattr__(self, "vocabulary", self.name)


@dataclasses.dataclass(frozen=True)
class DenseFeature:
    """A feature of one number.

    Args:
        name: Lower-case name, `[a-z][a-z0-9_]*`.
        transform: `none`; `standardize`, (x - mean) / std; or `log1p_standardize`, the same of
            log(1 + max(x, 0)). Mean and std are the training lists'. Missing is 0 after the transform.
    """

    name: str
    transform: Transform = "standardize"


@dataclasses.dataclass(frozen=True)
class HistoryDeclaration:
    """The user's past interactions: each has an item, its attributes, its feedback and its age.

    Args:
        length: H, the number of interactions kept, the most recent.
        categorical: Item attributes; the first must be `item_id`.
        dense: Numbers of the interaction; `age_seconds` (request time minus interaction time, in
            seconds) is computed, every other name is read from the interaction's feedback.
    """

    length: int = 50
    categorical: tuple[CategoricalFeature, ...] = (CategoricalFeature(ITEM_ID),)
    dense: tuple[DenseFeature, ...] = (DenseFeature(AGE_SECONDS, "log1p_standardize"),)


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """Gives `grade` to a candidate whose feedback called `feedback` is at least `at_least`."""

    feedback: str
    at_least: float
    grade: int


@dataclasses.dataclass(frozen=True)
class NegativeRule:
    """Marks as explicitly negative a candidate whose feedback called `feedback` is at most `at_most`."""

    feedback: str
    at_most: float


@dataclasses.dataclass(frozen=True)
class LabelDeclaration:
    """From several kinds of feedback to one graded label.

    relevance = the largest grade of a rule that holds, else 0; negative = 1 if any negative rule holds
    and relevance is 0, else 0. A feedback that a candidate lacks satisfies no rule.
    """

    grades: tuple[LabelRule, ...] = (LabelRule("click", 1.0, 1),)
    negatives: tuple[NegativeRule, ...] = ()


@dataclasses.dataclass(frozen=True)
class FeatureDeclaration:
    """Every feature of a data set.

    Args:
        context_categorical: Features of the user and the request; looked up in the request's context
            first, then among the user's attributes. `user_id`, `request_hour` and `request_weekday`
            (UTC) are known without being in either. Default: none.
        context_dense: Numbers of the user and the request, looked up the same way. Default: none.
        history: The user's past interactions. Default: the last 50, item and age.
        candidate_categorical: Candidate features; the first must be `item_id`. Looked up in the
            candidate's features first, then among the item's attributes. Default: `item_id` alone.
        candidate_dense: Candidate numbers, looked up the same way; `initial_score` is known.
            Default: none.
        label: How feedback becomes `relevance` and `negative`. Default: a click is grade 1.
        max_candidates: The longest list accepted, N at most. Default: 200.
    """

    context_categorical: tuple[CategoricalFeature, ...] = ()
    context_dense: tuple[DenseFeature, ...] = ()
    history: HistoryDeclaration = HistoryDeclaration()
    candidate_categorical: tuple[CategoricalFeature, ...] = (CategoricalFeature(ITEM_ID),)
    candidate_dense: tuple[DenseFeature, ...] = ()
    label: LabelDeclaration = LabelDeclaration()
    max_candidates: int = 200

    def __post_init__(self) -> None:
        _check(self)

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """Names of the vocabularies, sorted."""
        groups = (self.context_categorical, self.history.categorical, self.candidate_categorical)
        return tuple(sorted({feature.vocabulary for group in groups for feature in group}))

    @property
    def dense_keys(self) -> tuple[str, ...]:
        """Keys of the dense statistics: the name on the wire of every dense feature, in order."""
        return (
            *(feature.name for feature in self.context_dense),
            *(HISTORY_PREFIX + feature.name for feature in self.history.dense),
            *(feature.name for feature in self.candidate_dense),
        )

    @property
    def name_groups(self) -> tuple[tuple[str, ...], ...]:
        """Names on the wire of the features of context, candidates and history: categorical, dense."""
        history = self.history
        groups: tuple[tuple[str, Sequence[CategoricalFeature | DenseFeature]], ...] = (
            *(("", each) for each in (self.context_categorical, self.context_dense)),
            *(("", each) for each in (self.candidate_categorical, self.candidate_dense)),
            *((HISTORY_PREFIX, each) for each in (history.categorical, history.dense)),
        )
        return tuple(tuple(prefix + feature.name for feature in group) for prefix, group in groups)

    @property
    def names(self) -> tuple[str, ...]:
        """The name on the wire of every declared feature, in the order of `name_groups`."""
        return tuple(itertools.chain.from_iterable(self.name_groups))

    @property
    def raw_widths(self) -> dict[str, dict[str, int]]:
        """What raw records may hold: for `context` (and users) and `features` (and items) the declared names,
        with the number of strings of a categorical feature, or 0 for a dense one."""
        categorical = (*self.history.categorical, *self.candidate_categorical)
        return {
            "context": {each.name: each.width for each in self.context_categorical}
            | {each.name: 0 for each in self.context_dense},
            "features": {each.name: each.width for each in sorted(categorical, key=lambda each: each.width)}
            | {each.name: 0 for each in self.candidate_dense},
        }

    def to_dict(self) -> dict[str, Any]:
        """The declaration as JSON-ready data; `from_dict` gives it back equal."""
        return {"version": DECLARATION_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def of(cls, value: FeatureDeclaration | Mapping[str, Any]) -> FeatureDeclaration:
        """The declaration that a layer's argument stands for: itself or JSON-ready data."""
        return value if isinstance(value, cls) else cls.from_dict(value)

    @classmethod
    def from_dict(cls, data: Any, where: str = "feature declaration") -> FeatureDeclaration:
        """Reads what `to_dict` wrote.

        Args:
            data: The decoded JSON.
            where: What to call it in an error, a file name for instance.

        Raises:
            InputError: A key is unknown, missing, of the wrong type or of an impossible value.
        """
        if not isinstance(data, dict):
            raise InputError(f"{where}: expected an object, got {type(data).__name__}")
        data = dict(data)
        version = data.pop("version", None)
        if version != DECLARATION_VERSION:
            found = "is missing" if version is None else f"is {version!r}"
            raise InputError(f"{where}: key 'version' {found}, expected {DECLARATION_VERSION}")
        try:
            return from_plain(cls, data, where)
        except InputError as error:
            message = str(error)
            raise InputError(message if message.startswith(where) else f"{where}: {message}") from None


def load_declaration(path: str | os.PathLike[str]) -> FeatureDeclaration:
    """Reads a declaration from a JSON file.

    Raises:
        InputError: The file is missing, is not JSON or is not a declaration.
    """
    return FeatureDeclaration.from_dict(load_json(path), os.fspath(path))


def load_json(path: str | os.PathLike[str]) -> Any:
    """Decodes a JSON file; an `InputError` names the file and, for bad JSON, the line."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise InputError(f"{os.fspath(path)}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{os.fspath(path)}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{os.fspath(path)}:{error.lineno}: not JSON ({error.msg})") from None


def from_plain(cls: Any, data: Any, where: str) -> Any:
    """Builds a frozen dataclass from decoded JSON, strictly: unknown keys and wrong types are refused.

    Args:
        cls: A dataclass whose fields are str, int, float, bool, Literal, Optional, dataclasses and
            tuples of these.
        data: The decoded JSON object.
        where: Prefix for errors, the path to this object.

    Returns:
        An instance of `cls`.

    Raises:
        InputError: Naming the key.
    """
    import typing

    if not isinstance(data, dict):
        raise InputError(f"{where}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r} (known: {', '.join(sorted(fields))})")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}: key {name!r} is missing")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    import types
    import typing

    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _convert(options[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, got {type(value).__name__}")
        element = typing.get_args(hint)[0]
        return tuple(_convert(element, each, f"{where}[{index}]") for index, each in enumerate(value))
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise InputError(f"{where}: {value!r} is not one of {', '.join(map(repr, allowed))}")
        return value
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise InputError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _check(declaration: FeatureDeclaration) -> None:
    history = declaration.history
    if not declaration.candidate_categorical or declaration.candidate_categorical[0].name != ITEM_ID:
        raise InputError(f"candidate_categorical: the first feature must be {ITEM_ID!r}")
    if not history.categorical or history.categorical[0].name != ITEM_ID:
        raise InputError(f"history.categorical: the first feature must be {ITEM_ID!r}")
    if history.length < 1:
        raise InputError(f"history.length: must be at least 1, got {history.length}")
    if declaration.max_candidates < 1:
        raise InputError(f"max_candidates: must be at least 1, got {declaration.max_candidates}")
    seen: dict[str, str] = {}
    groups: tuple[tuple[str, tuple[CategoricalFeature | DenseFeature, ...], str], ...] = (
        ("context_categorical", declaration.context_categorical, ""),
        ("context_dense", declaration.context_dense, ""),
        ("history.categorical", history.categorical, HISTORY_PREFIX),
        ("history.dense", history.dense, HISTORY_PREFIX),
        ("candidate_categorical", declaration.candidate_categorical, ""),
        ("candidate_dense", declaration.candidate_dense, ""),
    )
    for where, group, prefix in groups:
        for feature in group:
            name = prefix + feature.name
            if not _NAME.fullmatch(feature.name):
                raise InputError(f"{where}: {feature.name!r} is not a name ([a-z][a-z0-9_]*)")
            if name in RESERVED:
                raise InputError(f"{where}: the name {name!r} is reserved")
            if name in seen:
                raise InputError(f"{where}: {name!r} is already declared in {seen[name]}")
            seen[name] = where
            if isinstance(feature, CategoricalFeature):
                if feature.width < 1:
                    raise InputError(f"{where}: {feature.name}: width must be at least 1")
                if not _NAME.fullmatch(feature.vocabulary):
                    raise InputError(f"{where}: {feature.vocabulary!r} is not a vocabulary name")
            elif feature.transform not in _TRANSFORMS:
                raise InputError(f"{where}: {feature.name}: transform {feature.transform!r} is unknown")
    for feature in (declaration.candidate_categorical[0], history.categorical[0]):
        if feature.width != 1 or feature.vocabulary != ITEM_ID:
            raise InputError(f"{ITEM_ID}: must have width 1 and vocabulary {ITEM_ID!r}")
    if not declaration.label.grades:
        raise InputError("label.grades: at least one rule is needed")
    for rule in declaration.label.grades:
        if not 1 <= rule.grade <= MAX_GRADE:
            raise InputError(f"label.grades: grade must be from 1 to {MAX_GRADE}, got {rule.grade}")
