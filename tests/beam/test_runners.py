"""Every runner that runs here makes the same bytes; what is killed leaves nothing that looks whole."""

import gzip
import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from apache_beam.runners.worker import data_plane

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.beam.runners import check_job_server, make_runner, parse_beam_options
from psad_tf.beam.transforms import timeline
from psad_tf.cli.main import main
from psad_tf.errors import InputError
from tests.beam import logs
from tests.beam.logs import DECLARATION

ROOT = Path(__file__).parents[2]
OPTIONS = PreprocessOptions(num_shards=2, latest_time=logs.START * 2, max_dropped=1.0)
FLAGS = ["--num_shards=2", f"--latest_time={logs.START * 2}"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    data = logs.records()
    # Bad records and rows of a flat log travel every way that a message can.
    data["users"].append({"age": "none"})
    data["impressions"] += [
        data["impressions"][3],
        {"user_id": "user-2", "time": logs.START + 1, "item_id": "item-1", "initial_score": 0.5},
        {"user_id": "user-2", "time": logs.START + 2, "item_id": "item-2", "initial_score": 0.7},
    ]
    return logs.write_folder(tmp_path_factory.mktemp("raw"), data)


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("direct") / "lists"
    manifest = preprocess(raw, output, DECLARATION, options=OPTIONS)
    return logs.digests(output), {**manifest, "created": None}


def _equal(output, manifest, expected):
    assert logs.digests(output) == expected[0]
    assert {**manifest, "created": None} == expected[1]


def _psad(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "psad_tf.cli", "preprocess", "--max_dropped=1", *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def _said(errors):
    """The lines on stderr but those that tell how far a job is."""
    return [line for line in errors.splitlines() if not line.startswith("preprocess: ")]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Logs of which one file ends too soon."""
    folder = logs.write_folder(tmp_path_factory.mktemp("damaged"), logs.records(lists=3))
    text = gzip.compress((folder / "impressions.jsonl").read_bytes())
    (folder / "impressions.jsonl.gz").write_bytes(text[:-20])
    return folder


@pytest.mark.slow
@pytest.mark.process
def test_worker_processes_make_the_same_bytes_though_pythons_path_has_a_space(
    raw, expected, damaged, tmp_path, capfd, monkeypatch
):
    python = tmp_path / "a folder" / "python"
    python.parent.mkdir()
    started = tmp_path / "started"
    python.write_text(f'#!/bin/sh\necho >> {started}\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    flushes = Mock()
    monkeypatch.setattr(data_plane.PeriodicThread, "start", flushes)
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    manifest = preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS, pipeline_options=flags)
    _equal(tmp_path / "lists", manifest, expected)
    assert len(started.read_text().splitlines()) == 2
    assert not flushes.called  # by time, which loses what is sent to a worker in the meantime: see compat.py
    assert _said(capfd.readouterr().err) == []
    with pytest.raises(InputError, match=r"impressions\.jsonl\.gz: the file is cut short or damaged"):
        preprocess(damaged, tmp_path / "none", DECLARATION, options=OPTIONS, pipeline_options=flags)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.process
def test_a_run_killed_half_way_leaves_nothing_that_looks_whole_and_the_next_one_is_right(
    raw, expected, tmp_path
):
    # The last file of interactions is a pipe: the job has read the others when it opens it, and waits there.
    pipe = tmp_path / "zz.jsonl.gz"
    os.mkfifo(pipe)
    inputs = ["--input_dir", raw, "--interactions", raw / "interactions.jsonl", pipe]
    process = _psad(*inputs, "--output_dir", tmp_path / "lists", *FLAGS)
    with open(pipe, "wb") as writer:  # returns when the job has opened it for reading
        process.send_signal(signal.SIGKILL)
        process.communicate()
        writer.close()
    pipe.unlink()
    left = [path.name for path in tmp_path.iterdir()]
    assert "lists" not in left
    assert not list(tmp_path.rglob("manifest.json"))
    assert [name for name in left if name.startswith("lists.tmp-")], "it was killed before it began"
    again = _psad("--input_dir", raw, "--output_dir", tmp_path / "lists", *FLAGS)
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    assert logs.digests(tmp_path / "lists") == expected[0]
    assert "42 impressions: 41 lists" in output
    assert "1 duplicate_request" in output


@pytest.mark.slow
@pytest.mark.process
def test_a_worker_process_that_is_killed_ends_the_job_with_one_line_and_no_output(raw, tmp_path):
    # A worker that reads the pipe waits there for its writer.
    pipe = tmp_path / "zz.jsonl.bz2"
    os.mkfifo(pipe)
    inputs = ["--input_dir", raw, "--interactions", raw / "interactions.jsonl", pipe]
    flags = ["--", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    job = _psad(*inputs, "--output_dir", tmp_path / "lists", *FLAGS, *flags)
    with open(pipe, "wb"):  # returns when a worker has opened it for reading
        (worker,) = [each for each in psutil.Process(job.pid).children() if _reads(each, pipe)]
        worker.kill()
        _, errors = job.communicate(timeout=120)
    (line,) = _said(errors)
    assert line.startswith("psad: a worker process of Beam ended before its work was done, with exit code -9")
    assert job.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == [pipe.name]


def _reads(process, path):
    files = Path(f"/proc/{process.pid}/fd")
    return any(os.path.realpath(each) == str(path) for each in files.iterdir())


def test_records_that_an_engine_loses_are_missed_and_nothing_is_written(raw, tmp_path, capfd, monkeypatch):
    """As a runner would that drops a block between two steps: a list in three never reaches its shard."""
    process, passed = timeline._JoinHistories.process, itertools.count()

    def losing(self, *element):
        joined = process(self, *element)
        return (each for each in joined if not isinstance(each, tuple) or next(passed) % 3)

    monkeypatch.setattr(timeline._JoinHistories, "process", losing)
    output = tmp_path / "lists"
    flags = ["--input_dir", str(raw), "--output_dir", str(output), "--max_dropped=1", *FLAGS]
    assert main(["preprocess", *flags]) == 2
    error = capfd.readouterr().err
    assert "records were lost between the steps of the job: impressions: " in error
    assert error.count("\n") == 1 and not output.exists()


@pytest.mark.slow
def test_the_command_prints_nothing_of_beams_own(raw, tmp_path):
    job = _psad("--input_dir", raw, "--output_dir", tmp_path / "lists", *FLAGS)
    _, errors = job.communicate()
    assert job.returncode == 0
    assert _said(errors) == []


def test_the_command_says_a_mistake_in_one_line(raw, tmp_path, capfd):
    features = tmp_path / "features.json"
    features.write_text((raw / "features.json").read_text().replace('"price"', '"prize"'))
    command = ["preprocess", "--input_dir", raw, "--features", features, "--output_dir", tmp_path / "lists"]
    assert main(list(map(str, [*command, "--max_dropped=1", *FLAGS]))) == 2
    (line,) = _said(capfd.readouterr().err)
    assert line.startswith("psad: feature 'prize' is declared but occurs in no record")
    assert not (tmp_path / "lists").exists()


def test_the_command_says_a_workers_trouble_with_a_file_in_one_line_too(damaged, tmp_path, capfd):
    assert main(["preprocess", "--input_dir", str(damaged), "--output_dir", str(tmp_path / "lists")]) == 2
    (line,) = _said(capfd.readouterr().err)
    assert line.startswith(f"psad: {damaged}/impressions.jsonl.gz: the file is cut short or damaged (")
    assert not list(tmp_path.iterdir())


def test_the_command_tells_of_the_dead_letters_of_every_kind(tmp_path, capfd):
    data = logs.records(lists=20)
    data["interactions"] += [{"user_id": "u", "item_id": "i", "time": "now"}, {"user_id": "u"}]
    folder = logs.write_folder(tmp_path / "raw", data)
    command = ["preprocess", "--input_dir", str(folder), "--output_dir", str(tmp_path / "lists")]
    assert main([*command, "--max_dropped", "0.1"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert [*said[:4], said[-1]] == [
        "Read 20 impressions: 20 lists (16 train, 2 valid, 2 test), 0 dead letters",
        "Read 122 interactions: 120 kept, 2 dead letters",
        "  1 missing_field",
        "  1 wrong_type",
        f"Wrote {tmp_path}/lists",
    ]


def _documented_commands():
    text = (ROOT / "docs" / "preprocessing.md").read_text(encoding="utf-8")
    return {
        line.split("|")[1].strip(): shlex.split(line.split("`")[1].removeprefix("-- "))
        for line in text.splitlines()
        if line.startswith("|") and "`-- --" in line
    }


def test_beam_knows_every_option_of_the_documented_commands():
    commands = _documented_commands()
    assert {"Flink", "Spark", "Dataflow"} < set(commands)
    for name, flags in commands.items():
        options = parse_beam_options(flags)
        # Beam keeps an option that it does not know apart from its own.
        unknown = set(options.get_all_options(retain_unknown_options=True)) - set(options.get_all_options())
        assert not unknown, name
        assert len(options.get_all_options(drop_default=True)) == len(flags), name


@pytest.mark.parametrize(("name", "runner"), [("Flink", "PortableRunner"), ("Spark", "SparkRunner")])
def test_the_documented_commands_make_their_runner(name, runner):
    options = parse_beam_options(_documented_commands()[name])
    assert type(make_runner(options)).__name__ == runner


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runner=NoSuchRunner"], "--runner: .*NoSuchRunner"),
        (["--runer=DirectRunner"], "Beam knows no option --runer"),
        (["direct"], "Beam knows no option direct"),
        (["--direct_num_workers=many"], "Beam's options are wrong: argument --direct_num_workers: .*many"),
    ],
)
def test_a_wrong_option_of_beam_is_named(raw, tmp_path, flags, message, caplog, capfd):
    with pytest.raises(InputError, match=message):
        preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS, pipeline_options=flags)
    assert not list(tmp_path.iterdir())
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_a_job_server_that_does_not_answer_is_named():
    with socket.socket() as taken:  # but nobody listens
        taken.bind(("localhost", 0))
        endpoint = f"localhost:{taken.getsockname()[1]}"
        flags = ["--runner=PortableRunner", f"--job_endpoint={endpoint}", "--job_server_timeout=1"]
        options = parse_beam_options(flags)
        started = time.monotonic()
        with pytest.raises(InputError, match=f"no job server answers at {endpoint}"):
            check_job_server(options)
        assert time.monotonic() - started < 5
