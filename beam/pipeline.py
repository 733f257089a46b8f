"""The job from raw logs to training lists.

files          | ReadRecords                  read, check, dead letters
rows           | AssembleRows                 one impression a request or session
all by user    | JoinHistories                user and history as of the request
requests       | FindSplitPoints              where training ends and validation and test begin
items          | JoinItems                    one row an item: a side input, or by shuffle where many
all by shard   | WriteLists                   one copy of a request; encoding; labels; TFRecords
training lists | DenseStatistics, WriteVocabularies
dead letters   | WriteDeadLetters

Counts are Beam metrics; files, split points and statistics go to the program that started the job.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from psad_tf.beam.dead_letters import COUNTS, DEAD, WriteDeadLetters, keep_dead_letters
from psad_tf.beam.manifest import MANIFEST, SCHEMA, STATISTICS, Reports, finish
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import PARTS, read_file, write_file
from psad_tf.beam.progress import shown_progress
from psad_tf.beam.runners import (
    cause,
    check_job_server,
    is_local,
    make_runner,
    one_error,
    parse_beam_options,
)
from psad_tf.beam.sources import FileRange, RawInputs, find_ranges
from psad_tf.beam.transforms.items import SHIPPED, JoinItems
from psad_tf.beam.transforms.lists import TRAINING, WriteLists
from psad_tf.beam.transforms.read import ITEM_ROWS, MISTAKES, REQUESTS, TIMELINE, ReadRecords
from psad_tf.beam.transforms.rows import ROWS, AssembleRows
from psad_tf.beam.transforms.split import FindSplitPoints
from psad_tf.beam.transforms.statistics import DenseStatistics
from psad_tf.beam.transforms.timeline import NEEDED, JoinHistories
from psad_tf.beam.transforms.vocabularies import WriteVocabularies
from psad_tf.data.records import ITEMS, KINDS
from psad_tf.errors import InputError
from psad_tf.features import SPLITS, FeatureDeclaration
from psad_tf.files import check_replaceable, replaced_directory

_SUMMARY = "summary.json"
_OURS = frozenset({MANIFEST, SCHEMA, STATISTICS, "vocabularies", "dead_letters", *SPLITS})


@beam.ptransform_fn
def MakeLists(
    start: Any,
    ranges: Sequence[FileRange],
    folder: str,
    declaration: FeatureDeclaration,
    options: PreprocessOptions,
) -> beam.PCollection:
    """The start of a pipeline -> the files of the output folder, under `.parts/`; `finish` names them."""
    many_items = sum(each.stop for each in ranges if each.kind == ITEMS) > options.side_input_bytes
    read = start | "Read" >> ReadRecords(ranges, declaration, options)
    rows = read[ROWS] | "Assemble rows" >> AssembleRows(declaration, options)
    requests = (read[REQUESTS], rows[REQUESTS]) | "Requests" >> beam.Flatten()
    timeline = (requests, read[TIMELINE]) | "Timeline" >> beam.Flatten()
    joined = timeline | "Join histories" >> JoinHistories(declaration, options, many_items)
    asked = (joined[NEEDED],) if many_items else ()
    items = (read[ITEM_ROWS], *asked) | "Join items" >> JoinItems(declaration, options)
    points = requests | "Find split points" >> FindSplitPoints(options.split)
    by_shard = (joined["joined"], items[SHIPPED]) | "Lists and items" >> beam.Flatten()
    known = None if many_items else items["items"]
    lists = by_shard | "Write lists" >> WriteLists(folder, declaration, options, points, known)
    training = lists[TRAINING]
    dead = [each[DEAD] for each in (read, rows, joined, items, lists)] | "Dead letters" >> beam.Flatten()
    files = (
        lists["files"],
        training | "Write vocabularies" >> WriteVocabularies(folder, declaration, options),
        dead | "Write dead letters" >> WriteDeadLetters(folder, options.num_shards),
    )
    summary = {
        "files": files | "Files" >> beam.Flatten(),
        "mistakes": read[MISTAKES],
        "split_points": points,
        "statistics": training | "Statistics" >> DenseStatistics(declaration),
    }
    sides = {name: beam.pvalue.AsList(each) for name, each in summary.items()}
    path = FileSystems.join(folder, PARTS, _SUMMARY)
    return start | "Summary" >> beam.Create([path]) | "Write summary" >> beam.Map(_write_summary, **sides)


def _write_summary(path: str, **reported: list[Any]) -> None:
    write_file(path, json.dumps(reported).encode())


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
        InputError: An input is missing or damaged, too many records cannot be used, no list can be made, a
            declared feature occurs nowhere, the engine lost records, or the output folder holds what this job
            did not write. The dead letters of a job that fails are kept beside the output, and the message
            names the commonest.
    """
    output = os.fspath(output_dir)
    if "://" not in output:
        check_replaceable(output, _OURS)
    settled = (options or PreprocessOptions()).with_latest_time()
    if not isinstance(inputs, RawInputs):
        inputs = RawInputs.from_folder(inputs)
    ranges = find_ranges(inputs)
    if not isinstance(pipeline_options, PipelineOptions):
        pipeline_options = parse_beam_options(list(pipeline_options or ()))
    check_job_server(pipeline_options)
    with _output_folder(output) as folder:
        with shown_progress(folder):
            reports = _run(ranges, folder, declaration, settled, pipeline_options)
        try:
            reports.check(declaration, settled.max_dropped)
        except InputError as error:
            if reports.mistakes:  # a damaged file is reason enough
                raise
            raise InputError(f"{error}{keep_dead_letters(folder, reports, output)}") from None
        lost = reports.unaccounted()
        if lost:
            raise InputError(
                f"records were lost between the steps of the job: {'; '.join(lost)}; nothing is written: "
                "run it again, or by another runner"
            )
        read = {kind: sorted({each.name for each in ranges if each.kind == kind}) for kind in KINDS}
        return finish(folder, reports, declaration, settled, read)


def _run(
    ranges: list[FileRange],
    folder: str,
    declaration: FeatureDeclaration,
    options: PreprocessOptions,
    pipeline_options: PipelineOptions,
) -> Reports:
    pipeline = beam.Pipeline(runner=make_runner(pipeline_options), options=pipeline_options)
    pipeline | "Make lists" >> MakeLists(ranges, folder, declaration, options)
    try:
        with one_error():
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as error:
        # Runners wrap a worker's error, each in its own way; what they all keep is its text.
        if f"[Errno {errno.ENOSPC}]" in str(error):
            raise InputError(f"{folder}: the disk is full") from error
        if is_local(pipeline_options):
            raise
        raise InputError(f"the engine ended the job: {cause(str(error))}") from error
    counts: Counter[str] = Counter()
    for counter in result.metrics().query(MetricsFilter().with_namespace(COUNTS))["counters"]:
        counts[counter.key.metric.name] += counter.result
    return Reports(counts, json.loads(read_file(FileSystems.join(folder, PARTS, _SUMMARY))))


@contextlib.contextmanager
def _output_folder(path: str) -> Iterator[str]:
    if "://" not in path:
        with replaced_directory(path) as temporary:
            os.mkdir(os.path.join(temporary, PARTS))
            yield temporary
            shutil.rmtree(os.path.join(temporary, PARTS))
        return
    _delete(FileSystems.join(path, MANIFEST))
    for name in ("vocabularies", "dead_letters", *SPLITS):
        _delete(FileSystems.join(path, name))
    try:
        yield path
    finally:
        _delete(FileSystems.join(path, PARTS))


def _delete(path: str) -> None:
    """Deletes a file, or the files of a folder and the folder where the file system has such a thing."""
    found = FileSystems.match([path, FileSystems.join(path, "*")])
    for each in ([file.path for matched in found for file in matched.metadata_list], [path]):
        with contextlib.suppress(BeamIOError):
            FileSystems.delete(each)
