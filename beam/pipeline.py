"""The job from raw logs to training lists.

ranges of files
   | ReadRecords        check, dead letters
   | Deduplicate        one impression a request id
   | FindSplitPoints    where training ends and validation and test begin
   | BuildItemTable     item attributes
   | JoinHistories      user, items and history as of the request; labels; encoding
   | WriteShards        gzip TFRecords of ExampleListWithContext
   | RankValues, WriteVocabularies
   | WriteDeadLetters
   | Collect            counts, statistics and files, for the manifest
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam.dead_letters import DEAD, WriteDeadLetters
from beam.manifest import MANIFEST, Reports, finish, read_json
from beam.messages import REPORT, Receive, Received, of_topic
from beam.options import PreprocessOptions
from beam.sorted_runs import create
from beam.sources import FileRange, RawInputs, find_ranges
from beam.transforms.deduplicate import Deduplicate
from beam.transforms.histories import LISTS, JoinHistories
from beam.transforms.items import ITEM_TABLE, BuildItemTable
from beam.transforms.read import ITEM_ROWS, REQUESTS, TIMELINE, ReadRecords
from beam.transforms.shards import WriteShards
from beam.transforms.split import SPLIT_POINTS, TIMES, FindSplitPoints
from beam.transforms.vocabularies import COUNTS, RANKED, RankValues, WriteVocabularies
from beam.writers import PARTS
from psad_tf.errors import InputError
from psad_tf.features import SPLITS, FeatureDeclaration
from psad_tf.files import replaced_directory

WORK = ".work"
_REPORTS = "reports.json"


class MakeLists(beam.PTransform):
    """File ranges -> the files of the output folder, under `.parts/`; `finish` names them.

    Args:
        folder: The output folder, that every worker can reach.
        declaration: The features.
        options: The job's options; `latest_time` is set.
    """

    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        super().__init__()
        self._folder = folder
        self._declaration = declaration
        self._options = options

    def expand(self, ranges: beam.PCollection) -> beam.PCollection:
        folder, declaration, options = self._folder, self._declaration, self._options
        work = FileSystems.join(folder, WORK)
        partitions = options.num_partitions
        vocabularies = declaration.vocabularies

        def take(label: str, sent: Sequence[beam.PCollection], count: int, *topics: str) -> beam.PCollection:
            return tuple(sent) | f"To {label}" >> Receive(topics, count)

        read = ranges | "Read" >> ReadRecords(work, declaration, options)
        unique = take("deduplicate", [read], partitions, REQUESTS) | "Deduplicate" >> Deduplicate(
            work, partitions, options.buffer_bytes
        )
        points = take("split", [unique], 1, TIMES) | "Find split points" >> FindSplitPoints(
            options.split, partitions
        )
        items = take("items", [read], 1, ITEM_ROWS) | "Build item table" >> BuildItemTable(
            work, declaration, partitions
        )
        lists = take(
            "join", [read, unique, points, items], partitions, TIMELINE, SPLIT_POINTS, ITEM_TABLE
        ) | "Join histories" >> JoinHistories(work, declaration, options)
        shards = take(
            "write", [lists], len(SPLITS) * options.num_shards, LISTS
        ) | "Write shards" >> WriteShards(folder, options.num_shards, options.compression_level)
        ranked = take("rank", [lists], partitions, COUNTS) | "Rank values" >> RankValues(
            work, options.vocabulary_min_count
        )
        written = take("vocabularies", [ranked], len(vocabularies), RANKED) | (
            "Write vocabularies" >> WriteVocabularies(folder, vocabularies, options.vocabulary_cap)
        )
        steps = [read, unique, items, lists]
        letters = take("dead letters", steps, partitions, DEAD) | "Write dead letters" >> WriteDeadLetters(
            folder, partitions
        )
        # One last step that every other leads to: a runner that follows only the last step runs them all.
        return take("collect", [*steps, points, shards, ranked, written, letters], 1, REPORT) | (
            "Collect" >> beam.ParDo(_Collect(work))
        )


class _Collect(beam.DoFn):
    """Writes what the steps reported to `.work/reports.json`."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, element: Received) -> Iterable[str]:
        _, received = element
        reports = of_topic(received, REPORT)
        path = FileSystems.join(self._folder, _REPORTS)
        with contextlib.closing(create(path)) as file:
            file.write(json.dumps(reports).encode())
        yield path


def preprocess(
    inputs: RawInputs | str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    declaration: FeatureDeclaration,
    *,
    options: PreprocessOptions | None = None,
    pipeline_options: PipelineOptions | Sequence[str] | None = None,
) -> dict[str, Any]:
    """Makes training lists of raw logs.

    A local output folder is written aside and renamed when it is whole. On another file system
    `manifest.json` is removed first and written last: a folder without it is not whole.

    Args:
        inputs: Where the records are, or a raw data folder.
        output_dir: The folder to write, on any Beam file system that every worker can reach.
        declaration: The features.
        options: How to split, shard and so on.
        pipeline_options: Beam's options, the runner among them.

    Returns:
        The manifest.

    Raises:
        InputError: An input is missing or damaged, no list can be made, or a declared feature occurs nowhere.
    """
    settled = (options or PreprocessOptions()).with_latest_time()
    if not isinstance(inputs, RawInputs):
        inputs = RawInputs.from_folder(inputs)
    ranges = find_ranges(inputs)
    if not isinstance(pipeline_options, PipelineOptions):
        pipeline_options = PipelineOptions(list(pipeline_options or ()))
    with _output_folder(os.fspath(output_dir)) as folder:
        reports = _run(ranges, folder, declaration, settled, pipeline_options)
        reports.check(declaration)
        wrong = reports.unaccounted()
        if wrong:
            raise RuntimeError(f"records are not accounted for: {'; '.join(wrong)}")
        return finish(folder, reports, declaration, dataclasses.asdict(settled))


def _run(
    ranges: list[FileRange],
    folder: str,
    declaration: FeatureDeclaration,
    options: PreprocessOptions,
    pipeline_options: PipelineOptions,
) -> Reports:
    pipeline = beam.Pipeline(runner=_runner(pipeline_options), options=pipeline_options)
    (
        pipeline
        | "Files" >> beam.Create(ranges)
        | "Spread" >> beam.Reshuffle()
        | "Make lists" >> MakeLists(folder, declaration, options)
    )
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        raise InputError(mistake) from error
    return Reports(read_json(FileSystems.join(folder, WORK, _REPORTS)))


def _runner(options: PipelineOptions) -> Any:
    """The runner named by the options.

    Beam's `DirectRunner` first tries to download another runner; here it means the one in Python that it
    falls back to, in memory or, by `--direct_running_mode`, in several processes.
    """
    name = options.view_as(StandardOptions).runner
    if name in (None, "DirectRunner"):
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        return FnApiRunner()
    return name


def _mistake(error: BaseException) -> str | None:
    """The message of an `InputError` that a worker raised, however the runner wrapped it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, InputError):
            return str(seen).partition(" [while running")[0]
        seen = seen.__cause__ or seen.__context__
    marker = "psad_tf.errors.InputError: "
    for line in str(error).splitlines():
        if marker in line:
            return line.partition(marker)[2].partition(" [while running")[0]
    return None


@contextlib.contextmanager
def _output_folder(path: str) -> Iterator[str]:
    if "://" not in path:
        with replaced_directory(path) as temporary:
            for name in (WORK, PARTS):
                os.mkdir(os.path.join(temporary, name))
            yield temporary
            for name in (WORK, PARTS):
                shutil.rmtree(os.path.join(temporary, name))
        return
    manifest = FileSystems.join(path, MANIFEST)
    if FileSystems.exists(manifest):
        FileSystems.delete([manifest])
    for name in ("vocabularies", "dead_letters", *SPLITS):
        old = FileSystems.join(path, name)
        if FileSystems.exists(old):
            FileSystems.delete([old])
    try:
        yield path
    finally:
        for name in (WORK, PARTS):
            with contextlib.suppress(Exception):
                FileSystems.delete([FileSystems.join(path, name)])
