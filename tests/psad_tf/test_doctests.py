"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pathlib

import pytest

PACKAGES = ("psad_tf", "psad_tf.beam", "psad_tf.export", "psad_tf.tfx_pipeline")


def modules_with_examples() -> list[str]:
    """Names of the modules that have an example."""
    names = []
    for package in PACKAGES:
        root = pathlib.Path(next(iter(importlib.import_module(package).__path__)))
        for path in sorted(root.rglob("*.py")):
            if ">>> " in path.read_text():
                parts = path.relative_to(root).with_suffix("").parts
                names.append(".".join((package, *parts)).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_hold(name):
    failed, tried = doctest.testmod(importlib.import_module(name), verbose=False)
    assert tried > 0
    assert failed == 0
