"""`import psad_tf`: about 25 names, imported when used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import psad_tf


@pytest.mark.parametrize("name", sorted(set(psad_tf.__all__) - {"__version__"}))
def test_every_public_name_is_there_and_says_what_it_is(name):
    assert getattr(psad_tf, name).__doc__


def test_there_are_few_and_a_wrong_one_is_named():
    assert 20 <= len(psad_tf.__all__) <= 30
    assert set(dir(psad_tf)) == set(psad_tf.__all__)
    with pytest.raises(AttributeError, match="'Psad'"):
        psad_tf.Psad  # noqa: B018


def test_importing_imports_nothing_heavy():
    code = "import sys, psad_tf; sys.exit(bool({'tensorflow', 'apache_beam', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
