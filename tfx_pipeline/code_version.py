"""A fingerprint of the code, so that the pipeline's cache does not outlive it."""

from __future__ import annotations

import functools
import hashlib
import importlib
import pathlib

# Nothing in these folders has a hand in a model that the pipeline makes.
_APART = frozenset({"cli", "datasets", "baselines", "serving"})
_PACKAGES = ("psad_tf", "psad_tf.beam", "psad_tf.export", "psad_tf.tfx_pipeline")


@functools.cache
def code_fingerprint() -> str:
    """The first 16 hex digits of the SHA-256 over all modules that make a model from raw logs."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        root = pathlib.Path(next(iter(importlib.import_module(package).__path__))).resolve()
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            if _APART.isdisjoint(inside.parts):
                digest.update(f"{package}/{inside}".encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
