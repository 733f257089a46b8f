"""A data set as raw records, and writing it as a raw data folder (format: `psad_tf/data/records.py`)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from psad_tf.data.records import (
    FEATURES_FILE,
    IMPRESSIONS,
    INTERACTIONS,
    ITEMS,
    KINDS,
    USERS,
    Impression,
    Interaction,
    write_json_lines,
)
from psad_tf.errors import InputError
from psad_tf.features import FeatureDeclaration
from psad_tf.files import check_replaceable, replaced_directory, write_json

RAW_FILES = (FEATURES_FILE, *(f"{kind}.jsonl" for kind in KINDS))


@dataclasses.dataclass(frozen=True)
class RawData:
    """What every reader yields.

    Args:
        declaration: Names and kinds of the features, and how feedback becomes a label.
        impressions: The lists, each in the initial ranker's order.
        interactions: Past interactions of the users, of which the histories are made.
        users: Objects with `user_id` and attributes.
        items: Objects with `item_id` and attributes.
    """

    declaration: FeatureDeclaration
    impressions: Iterable[Impression]
    interactions: Iterable[Interaction]
    users: Iterable[Mapping[str, Any]]
    items: Iterable[Mapping[str, Any]]


def write_raw_data(data: RawData, output_dir: str | os.PathLike[str]) -> dict[str, int]:
    """Writes a raw data folder; an existing one is replaced when the new one is whole.

    Returns:
        Number of records of each kind, by the kind's name.

    Raises:
        InputError: There is no list, or the folder cannot be written or holds something else.
    """
    check_replaceable(output_dir, RAW_FILES)
    with replaced_directory(output_dir) as folder:
        counts = {
            kind: write_json_lines(os.path.join(folder, f"{kind}.jsonl"), records)
            for kind, records in (
                (IMPRESSIONS, (each.to_dict() for each in data.impressions)),
                (INTERACTIONS, (each.to_dict() for each in data.interactions)),
                (USERS, data.users),
                (ITEMS, data.items),
            )
        }
        if not counts[IMPRESSIONS]:
            raise InputError(f"{os.fspath(output_dir)}: not written, because the data set gives no list")
        write_declaration(data.declaration, folder)
    return counts


def write_declaration(declaration: FeatureDeclaration, folder: str) -> None:
    """Writes `features.json` into a raw data folder that is being made."""
    write_json(os.path.join(folder, FEATURES_FILE), declaration.to_dict())
