"""Data inside wheels: what is fetched is what was pinned, and the cache works without an index."""

from __future__ import annotations

import hashlib
import pathlib
import zipfile

import pytest

from psad_tf.datasets.download import PackagedData, fetch
from psad_tf.errors import InputError


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> PackagedData:
    """A small wheel in a folder that is pip's only index."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "psadsample-1.0-py3-none-any.whl"
    files = {"a.csv": b"1,2\n", "sub/b.csv": b"3\n"}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"psadsample/data/{name}", content)
        archive.writestr("psadsample/data/unwanted.bin", b"0" * 100)
        info = "psadsample-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: psadsample\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return PackagedData(
        name="sample",
        requirement="psadsample==1.0",
        wheel_sha256=_sha256(wheel.read_bytes()),
        folder="psadsample/data",
        files={name: _sha256(content) for name, content in files.items()},
    )


def _without_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")


def _replaced(package: PackagedData, **changes: object) -> PackagedData:
    return PackagedData(**{**vars(package), **changes})


def test_only_the_named_files_are_kept(package: PackagedData, tmp_path: pathlib.Path) -> None:
    folder = fetch(package, tmp_path / "cache")
    kept = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert kept == ["a.csv", "sub/b.csv"]
    assert (folder / "sub/b.csv").read_bytes() == b"3\n"


def test_a_second_fetch_needs_no_index(
    package: PackagedData, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch(package, tmp_path / "cache")
    _without_index(monkeypatch)
    assert fetch(package, tmp_path / "cache") == first


def test_the_cache_folder_can_be_named_by_the_environment(
    package: PackagedData, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSAD_CACHE", str(tmp_path / "elsewhere"))
    assert fetch(package) == tmp_path / "elsewhere" / "sample"


def test_a_damaged_cached_file_is_fetched_anew(package: PackagedData, tmp_path: pathlib.Path) -> None:
    folder = fetch(package, tmp_path / "cache")
    (folder / "a.csv").write_bytes(b"damaged")
    assert (fetch(package, tmp_path / "cache") / "a.csv").read_bytes() == b"1,2\n"


def test_a_wheel_of_another_hash_is_refused_and_leaves_nothing(
    package: PackagedData, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match="SHA-256"):
        fetch(_replaced(package, wheel_sha256="0" * 64), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_file_of_another_hash_is_refused_and_leaves_nothing(
    package: PackagedData, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match=r"a\.csv has SHA-256"):
        fetch(_replaced(package, files={"a.csv": "0" * 64}), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_an_index_the_error_is_one_line_that_names_the_package(
    package: PackagedData, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_index(monkeypatch)
    with pytest.raises(InputError, match=r"psadsample==1\.0: pip could not download it") as caught:
        fetch(package, tmp_path / "cache")
    assert "\n" not in str(caught.value)
