"""The item table: attributes of any number of items, looked up in bounded memory.

All item rows are sorted together by item id and written once as an SQLite file of the declared attributes.
Each worker opens it (a copy, where it lies on a remote file system) and remembers the items it used last.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import os
import shutil
import sqlite3
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from psad_tf.beam.dead_letters import DeadLetters
from psad_tf.beam.messages import Handler, Message, Step, of_topic, report
from psad_tf.beam.sorted_runs import create, merge_runs
from psad_tf.beam.transforms.read import ITEM_ROWS
from psad_tf.data.records import ITEMS, RecordError
from psad_tf.features import FeatureDeclaration

ITEM_TABLE = "item_table"
_REMEMBERED = 50_000


class BuildItemTable(Step):
    """Runs of item rows -> the item table's path, sent to every partition.

    Of several rows of one item the first in the order of their bytes is kept; the others are dead letters.

    Args:
        folder: Where the table is written.
        declaration: The features; other attributes are left out.
        partitions: How many partitions to send the path to.
    """

    def __init__(self, folder: str, declaration: FeatureDeclaration, partitions: int) -> None:
        super().__init__(_BuildItemTable(folder, declaration, partitions))


class _BuildItemTable(Handler):
    topics = (ITEM_ROWS,)

    def __init__(self, folder: str, declaration: FeatureDeclaration, partitions: int) -> None:
        self._folder = folder
        self._partitions = partitions
        groups = (
            declaration.history.categorical,
            declaration.candidate_categorical,
            declaration.candidate_dense,
        )
        self._names = sorted({feature.name for group in groups for feature in group} - {"item_id"})

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        runs = of_topic(received, ITEM_ROWS)
        dead = DeadLetters(self._folder, self._partitions)
        path = FileSystems.join(self._folder, f"items-{uuid.uuid4().hex}.sqlite")
        count = 0

        def rows() -> Iterator[tuple[bytes, bytes]]:
            nonlocal count
            last = None
            for item_id, value in merge_runs(runs):
                data, source = marshal.loads(value)
                if item_id == last:
                    detail = f"item_id: {data['item_id']!r} has another row"
                    dead.add(ITEMS, RecordError("duplicate_item_row", detail), source, data)
                    continue
                last = item_id
                count += 1
                kept = {name: data[name] for name in self._names if data.get(name) is not None}
                yield item_id, marshal.dumps(kept, 2)

        with tempfile.TemporaryDirectory(prefix="psad-items-") as local_folder:
            local = os.path.join(local_folder, "items.sqlite")
            write_item_table(local, rows())
            with open(local, "rb") as source_file, contextlib.closing(create(path)) as file:
                shutil.copyfileobj(source_file, file, 1 << 20)
        yield from dead.close()
        yield report("counts", {"items/kept": count})
        for receiver in range(self._partitions):
            yield ITEM_TABLE, receiver, path


def write_item_table(path: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
    """Writes (item id, marshalled attributes) rows, each item once, to a new SQLite file."""
    with contextlib.closing(sqlite3.connect(path)) as table:
        table.execute("PRAGMA journal_mode = OFF")
        table.execute("PRAGMA synchronous = OFF")
        table.execute("CREATE TABLE items (id BLOB PRIMARY KEY, attributes BLOB) WITHOUT ROWID")
        table.executemany("INSERT INTO items VALUES (?, ?)", rows)
        table.commit()


class ItemTable:
    """The attributes of items by id.

    Args:
        path: The table that `BuildItemTable` wrote, on any Beam file system; None for a table without items.
    """

    def __init__(self, path: str | None) -> None:
        self._copy: str | None = None
        self._table: sqlite3.Connection | None = None
        if path is None:
            return
        if not os.path.exists(path):
            handle, self._copy = tempfile.mkstemp(prefix="psad-items-", suffix=".sqlite")
            with (
                contextlib.closing(
                    FileSystems.open(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)
                ) as source,
                os.fdopen(handle, "wb") as file,
            ):
                shutil.copyfileobj(source, file, 1 << 20)
        uri = f"file:{urllib.parse.quote(os.path.abspath(self._copy or path))}?mode=ro&immutable=1"
        self._table = sqlite3.connect(uri, uri=True)

    def __enter__(self) -> ItemTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._table is not None:
            self._table.close()
        if self._copy:
            os.remove(self._copy)

    def attributes(self, item_id: str) -> dict[str, Any] | None:
        """The declared attributes that the item has, or None where the table has no such item."""
        if self._table is None:
            return None
        row = self._table.execute("SELECT attributes FROM items WHERE id = ?", (item_id.encode(),)).fetchone()
        return None if row is None else marshal.loads(row[0])


def remembering(function: Any) -> Any:
    """A cache of the last items used, of bounded size."""
    return functools.lru_cache(maxsize=_REMEMBERED)(function)
