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
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from psad_tf.beam.dead_letters import WriteDeadLetters
from psad_tf.beam.manifest import MANIFEST, SCHEMA, STATISTICS, Reports, finish, read_json
from psad_tf.beam.messages import REPORT, Handler, Message, Step, of_topic
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.progress import shown_progress
from psad_tf.beam.runners import make_runner, parse_beam_options
from psad_tf.beam.sorted_runs import create
from psad_tf.beam.sources import FileRange, RawInputs, find_ranges
from psad_tf.beam.transforms.deduplicate import Deduplicate
from psad_tf.beam.transforms.histories import JoinHistories
from psad_tf.beam.transforms.items import BuildItemTable
from psad_tf.beam.transforms.read import ReadRecords
from psad_tf.beam.transforms.rows import AssembleRows
from psad_tf.beam.transforms.shards import WriteShards
from psad_tf.beam.transforms.split import FindSplitPoints
from psad_tf.beam.transforms.vocabularies import RankValues, WriteVocabularies
from psad_tf.beam.writers import PARTS
from psad_tf.errors import InputError
from psad_tf.features import SPLITS, FeatureDeclaration
from psad_tf.files import check_replaceable, replaced_directory

WORK = ".work"
_REPORTS = "reports.json"
_OURS = frozenset({MANIFEST, SCHEMA, STATISTICS, "vocabularies", "dead_letters", *SPLITS})


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
        return (
            ranges
            | "Read" >> ReadRecords(work, declaration, options)
            | "Assemble rows" >> AssembleRows(work, declaration, options)
            | "Deduplicate" >> Deduplicate(work, partitions, options.buffer_bytes)
            | "Find split points" >> FindSplitPoints(options.split, partitions)
            | "Build item table" >> BuildItemTable(work, declaration, partitions)
            | "Join histories" >> JoinHistories(work, declaration, options)
            | "Write shards" >> WriteShards(folder, options.num_shards, options.compression_level)
            | "Rank values" >> RankValues(work, options.vocabulary_min_count)
            | "Write vocabularies"
            >> WriteVocabularies(folder, declaration.vocabularies, options.vocabulary_cap)
            | "Write dead letters" >> WriteDeadLetters(folder, partitions)
            | "Collect" >> Collect(work)
        )


class Collect(Step):
    """Every report -> `.work/reports.json`."""

    def __init__(self, folder: str) -> None:
        super().__init__(_Collect(folder))


class _Collect(Handler):
    topics = (REPORT,)

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        with contextlib.closing(create(FileSystems.join(self._folder, _REPORTS))) as file:
            file.write(json.dumps(of_topic(received, REPORT)).encode())
        return ()


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
        InputError: An input is missing or damaged, no list can be made, a declared feature occurs nowhere, or
            the output folder holds what this job did not write.
    """
    if "://" not in os.fspath(output_dir):
        check_replaceable(output_dir, _OURS)
    settled = (options or PreprocessOptions()).with_latest_time()
    if not isinstance(inputs, RawInputs):
        inputs = RawInputs.from_folder(inputs)
    ranges = find_ranges(inputs)
    if not isinstance(pipeline_options, PipelineOptions):
        pipeline_options = parse_beam_options(list(pipeline_options or ()))
    with _output_folder(os.fspath(output_dir)) as folder:
        with shown_progress(folder):
            reports = _run(ranges, folder, declaration, settled, pipeline_options)
        reports.check(declaration)
        wrong = reports.unaccounted()
        if wrong:
            raise RuntimeError(f"records are not accounted for: {'; '.join(wrong)}")
        return finish(folder, reports, declaration, settled)


def _run(
    ranges: list[FileRange],
    folder: str,
    declaration: FeatureDeclaration,
    options: PreprocessOptions,
    pipeline_options: PipelineOptions,
) -> Reports:
    pipeline = beam.Pipeline(runner=make_runner(pipeline_options), options=pipeline_options)
    (
        pipeline
        | "Files" >> beam.Create(ranges)
        | "Spread" >> beam.Reshuffle()
        | "Make lists" >> MakeLists(folder, declaration, options)
    )
    result = None
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        # Runners wrap a worker's error, each in its own way; what they all keep is its text.
        if f"[Errno {errno.ENOSPC}]" in str(error):
            raise InputError(f"{folder}: the disk is full") from error
        raise
    finally:
        # Dask's result keeps its client, and a cluster of its own if it made one, until they are closed.
        client = getattr(result, "client", None)
        if client is not None:
            client.close()
    path = FileSystems.join(folder, WORK, _REPORTS)
    # Files without a single record make no report.
    return Reports(read_json(path) if FileSystems.exists(path) else [])


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
        _delete_folder(FileSystems.join(path, name))
    try:
        yield path
    finally:
        for name in (WORK, PARTS):
            with contextlib.suppress(BeamIOError):
                _delete_folder(FileSystems.join(path, name))


def _delete_folder(path: str) -> None:
    """Deletes the files of a folder, and the folder where the file system has such a thing."""
    (found,) = FileSystems.match([FileSystems.join(path, "*")])
    files = [metadata.path for metadata in found.metadata_list]
    if files:
        FileSystems.delete(files)
    with contextlib.suppress(BeamIOError):
        FileSystems.delete([path])
