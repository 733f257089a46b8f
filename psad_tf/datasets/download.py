"""Public data that ships inside Python packages: downloaded by pip, checked by hash, cached.

A `PackagedData` names a pinned wheel, the files wanted out of it, and the SHA-256 of the wheel and of
every file. Only these files are kept; the wheel is neither installed nor run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

from psad_tf.errors import InputError
from psad_tf.files import replaced_directory

CACHE_VARIABLE = "PSAD_CACHE"
_DEFAULT_CACHE = os.path.join(".cache", "psad")
_PIP_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class PackagedData:
    """Files inside a wheel.

    Args:
        name: Name of the data set, and of its folder in the cache.
        requirement: The pinned package, `name==version`.
        wheel_sha256: Hash of the wheel.
        folder: Folder inside the wheel that `files` are relative to.
        files: File in `folder` -> SHA-256 of its content.
    """

    name: str
    requirement: str
    wheel_sha256: str
    folder: str
    files: dict[str, str]


MOVIELENS_100K = PackagedData(
    name="movielens-100k",
    requirement="recbole==1.2.1",
    wheel_sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    folder="recbole/dataset_example/ml-100k",
    files={
        "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    },
)

OPEN_BANDIT_SAMPLE = PackagedData(
    name="open-bandit-sample",
    requirement="obp==0.4.1",
    wheel_sha256="87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208",
    folder="obp/dataset/obd",
    files={
        "bts/all/all.csv": "0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106",
        "bts/all/item_context.csv": "5d4359ba1cfa3ae88f0f1bae66bd633859fe6323817183632ee57b83539d9153",
        "bts/men/item_context.csv": "3b411ed6b0471316321a6b93f4f756bb25888eac6218cd71d0b603d41d85732d",
        "bts/men/men.csv": "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
        "bts/women/item_context.csv": "a56295bad066a558eb783055afd9279f5f4e209a4776eafc22151c53f0ac89d4",
        "bts/women/women.csv": "e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8",
        "random/all/all.csv": "7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1",
        "random/all/item_context.csv": "eba04cc23d5f130a93ff174c5392986882b94c3839433cb8143870eaa6221358",
        "random/men/item_context.csv": "6d855c2b7e917d0448d71bbe62c023147495882c0fdc8c41e86fef86abf9fe09",
        "random/men/men.csv": "ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
        "random/women/item_context.csv": "b1ca4905f97703d196004f2ad4552c1e90c2afad8b50688d333b0d2dc0b33147",
        "random/women/women.csv": "e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34",
    },
)

PACKAGED = {data.name: data for data in (MOVIELENS_100K, OPEN_BANDIT_SAMPLE)}


def default_cache_dir() -> str:
    """The cache folder: `$PSAD_CACHE`, or `.cache/psad` in the current folder."""
    return os.environ.get(CACHE_VARIABLE) or _DEFAULT_CACHE


def fetch(data: PackagedData, cache_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Gives the folder that holds the data's files, downloading them unless the cache has them whole.

    Args:
        data: What to fetch.
        cache_dir: The cache folder; by default `default_cache_dir()`.

    Returns:
        `<cache_dir>/<data.name>`, holding exactly `data.files`, every hash checked now.

    Raises:
        InputError: pip cannot download the wheel, or a hash is not the expected one.
    """
    folder = pathlib.Path(cache_dir or default_cache_dir()) / data.name
    if all(_has_hash(folder / name, sha256) for name, sha256 in data.files.items()):
        return folder
    with tempfile.TemporaryDirectory(prefix="psad-download-") as temporary:
        wheel = _download(data.requirement, temporary)
        if not _has_hash(wheel, data.wheel_sha256):
            raise InputError(
                f"{data.name}: the wheel of {data.requirement} has SHA-256 {_sha256(wheel)}, expected "
                f"{data.wheel_sha256}: the package index does not serve the published file"
            )
        with replaced_directory(folder) as new:
            _extract(data, wheel, pathlib.Path(new))
    return folder


def _download(requirement: str, target: str) -> pathlib.Path:
    """Lets pip download one wheel, without its dependencies, into `target`."""
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", target]
    command += ["--disable-pip-version-check", "--quiet", "--retries", "1", "--no-input"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_PIP_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{requirement}: pip did not finish in {_PIP_SECONDS} seconds") from None
    wheels = sorted(pathlib.Path(target).glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = (said or done.stderr.splitlines() or ["no wheel"])[-1].removeprefix("ERROR:").strip()
        raise InputError(
            f"{requirement}: pip could not download it ({reason}); it needs a package index, or a cache "
            f"made earlier (--cache_dir or ${CACHE_VARIABLE})"
        )
    return wheels[0]


def _extract(data: PackagedData, wheel: pathlib.Path, target: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name, sha256 in data.files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"{data.folder}/{name}") as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file)
            if not _has_hash(path, sha256):
                raise InputError(f"{data.name}: {name} has SHA-256 {_sha256(path)}, expected {sha256}")


def _has_hash(path: pathlib.Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
