"""A fingerprint of the code, so that the pipeline's cache does not outlive it."""

from __future__ import annotations

import functools
import hashlib
import pathlib

# Nothing in these folders has a hand in a model that the pipeline makes.
_APART = frozenset({"commands", "datasets", "baselines", "serving"})
_PACKAGES = ("psad_tf", "beam", "export", "tfx_pipeline")


@functools.cache
def code_fingerprint() -> str:
    """The first 16 hex digits of the SHA-256 over all modules that make a model from raw logs."""
    root = pathlib.Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if _APART.isdisjoint(path.relative_to(root).parts):
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
