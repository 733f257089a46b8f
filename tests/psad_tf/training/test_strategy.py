"""What is asked of a distributed or restarted run: refused when it cannot work, passed on when it can."""

from __future__ import annotations

import argparse
import sys

import pytest

from psad_tf.cli import train as command
from psad_tf.cli.main import main
from psad_tf.errors import InputError
from psad_tf.training.distribution import make_strategy


def test_a_cluster_that_is_not_named_is_one_clear_error(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(InputError, match="TF_CONFIG"):
        make_strategy("multi_worker", jit_compile=False, batch_size=8)


def test_xla_with_exchange_of_gradients_on_cpus_is_refused():
    with pytest.raises(InputError, match="jit_compile"):
        make_strategy("mirrored", jit_compile=True, batch_size=8)


def test_a_restart_resumes_with_the_same_options_and_one_restart_less():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["--lists_dir", "l", "--output_dir", "a run", "--seed", "0", "--device", "cpu", "--overwrite"]
    line = command.restart_command(parser.parse_args([*given, "--restarts", "3"]))
    assert line[:4] == [sys.executable, "-m", "psad_tf.cli", "train"]
    again = parser.parse_args(line[4:])
    assert (again.lists_dir, again.output_dir, again.seed, again.device) == ("l", "a run", 0, "cpu")
    assert again.resume and not again.overwrite and again.restarts == 2 and again.epochs is None


def test_restarts_below_zero_are_refused(capsys):
    assert main(["train", "--lists_dir", "l", "--output_dir", "r", "--restarts", "-1"]) == 2
    assert "--restarts: must be 0 or more" in capsys.readouterr().err
