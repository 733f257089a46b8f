"""Inputs and outputs on a file system that is reached through Beam only, as object stores are."""

import os

import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem
from apache_beam.io.localfilesystem import LocalFileSystem

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.beam.sources import RawInputs
from psad_tf.errors import InputError
from tests.beam import logs
from tests.beam.logs import DECLARATION

pytestmark = pytest.mark.slow

OPTIONS = PreprocessOptions(num_shards=2, latest_time=logs.START * 2, max_dropped=1.0)
SCHEME = "elsewhere://"


def _local(path):
    assert path.startswith(SCHEME), f"{path} did not go through Beam's file systems"
    return path.removeprefix(SCHEME)


class ElsewhereFileSystem(FileSystem):
    """The local disk under another scheme; like an object store it makes folders by itself."""

    def __init__(self, pipeline_options):
        super().__init__(pipeline_options)
        self._disk = LocalFileSystem(pipeline_options)

    @classmethod
    def scheme(cls):
        return "elsewhere"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path):
        self._disk.mkdirs(_local(path))

    def has_dirs(self):
        return True

    def _list(self, dir_or_prefix):
        for each in self._disk._list(_local(dir_or_prefix)):
            yield FileMetadata(SCHEME + each.path, each.size_in_bytes)

    def create(self, path, *arguments, **options):
        os.makedirs(os.path.dirname(_local(path)), exist_ok=True)
        return self._disk.create(_local(path), *arguments, **options)

    def open(self, path, *arguments, **options):
        return self._disk.open(_local(path), *arguments, **options)

    def copy(self, source_file_names, destination_file_names):
        raise NotImplementedError

    def rename(self, source_file_names, destination_file_names):
        for target in destination_file_names:
            os.makedirs(os.path.dirname(_local(target)), exist_ok=True)
        self._disk.rename(list(map(_local, source_file_names)), list(map(_local, destination_file_names)))

    def exists(self, path):
        return self._disk.exists(_local(path))

    def size(self, path):
        return self._disk.size(_local(path))

    def last_updated(self, path):
        return self._disk.last_updated(_local(path))

    def checksum(self, path):
        return self._disk.checksum(_local(path))

    def metadata(self, path):
        return FileMetadata(path, self.size(path))

    def delete(self, paths):
        self._disk.delete(list(map(_local, paths)))


def _remote(folder, raw):
    inputs = RawInputs.from_folder(f"{SCHEME}{raw}")
    return preprocess(inputs, f"{SCHEME}{folder}", DECLARATION, options=OPTIONS)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    data = logs.records()
    data["users"].append({"age": 3})
    return logs.write_folder(tmp_path_factory.mktemp("raw"), data)


def test_the_files_are_those_of_a_local_run(raw, tmp_path):
    local = preprocess(raw, tmp_path / "local", DECLARATION, options=OPTIONS)
    remote = _remote(tmp_path / "remote", raw)
    assert logs.digests(tmp_path / "remote") == logs.digests(tmp_path / "local")
    assert remote["files"] == local["files"]
    assert sorted(os.listdir(tmp_path / "remote")) == sorted(os.listdir(tmp_path / "local"))


def test_an_older_output_is_gone_when_the_new_one_is_whole(raw, tmp_path):
    old = tmp_path / "lists" / "train" / "part-00007-of-00008.tfrecord.gz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    _remote(tmp_path / "lists", raw)
    assert not old.exists()


def test_a_failed_run_leaves_no_manifest(raw, tmp_path):
    _remote(tmp_path / "lists", raw)
    (broken := tmp_path / "broken").mkdir()
    for path in raw.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "impressions.jsonl.gz").write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(InputError, match="cut short or damaged"):
        _remote(tmp_path / "lists", broken)
    assert not (tmp_path / "lists" / "manifest.json").exists()
