"""`psad train` in a process of its own, which may kill itself as the kernel or a scheduler would."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.python.checkpoint import checkpoint_management

from psad_tf.cli.main import main
from psad_tf.training import trainer  # noqa: F401 - what the command imports
from psad_tf.training.callbacks import ExactResume


def psad_train(
    options: Sequence[str], kill: tuple[str, int] | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Runs the command, without its output.

    Args:
        options: Of the command.
        kill: `step` or `save` and a number: where it kills itself.
        environment: More variables.
    """
    os.environ.update(environment or {})
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if kill is not None:
        how, number = kill
        {"step": _kill_after_step, "save": _kill_in_save}[how](number)
    sys.exit(main(["train", *options]))


def _kill_after_step(number: int) -> None:
    """SIGKILL when step `number` has been counted and its checkpoint, if one is due, is written."""
    end = ExactResume.on_train_batch_end

    def killing(self: Any, batch: int, logs: dict | None = None) -> None:
        end(self, batch, logs)
        if int(self.model.step.numpy()) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    ExactResume.on_train_batch_end = killing


def _kill_in_save(number: int) -> None:
    """SIGKILL when checkpoint `number`'s files are written and the folder's state does not name it yet."""
    update = checkpoint_management.update_checkpoint_state_internal

    def killing(*arguments: Any, **options: Any) -> None:
        if str(options["model_checkpoint_path"]).endswith(f"-{number}"):
            os.kill(os.getpid(), signal.SIGKILL)
        update(*arguments, **options)

    checkpoint_management.update_checkpoint_state_internal = killing
