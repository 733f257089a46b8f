"""`psad train` in a process that kills itself, as the kernel or a scheduler would, after a step or in a save.

python -m tests.psad_tf.killed_train step|save NUMBER -- OPTIONS OF PSAD TRAIN
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def kill_after_step(number: int) -> None:
    """SIGKILL when step `number` has been counted and its checkpoint, if one is due, is written."""
    from psad_tf.training.callbacks import ExactResume

    end = ExactResume.on_train_batch_end

    def killing(self: Any, batch: int, logs: dict | None = None) -> None:
        end(self, batch, logs)
        if int(self.model.step.numpy()) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    ExactResume.on_train_batch_end = killing


def kill_in_save(number: int) -> None:
    """SIGKILL when checkpoint `number`'s files are written and the folder's state does not name it yet."""
    from tensorflow.python.checkpoint import checkpoint_management

    update = checkpoint_management.update_checkpoint_state_internal

    def killing(*arguments: Any, **options: Any) -> None:
        if str(options["model_checkpoint_path"]).endswith(f"-{number}"):
            os.kill(os.getpid(), signal.SIGKILL)
        update(*arguments, **options)

    checkpoint_management.update_checkpoint_state_internal = killing


if __name__ == "__main__":
    # As the command does before it imports TensorFlow: with these kernels sums are rounded differently.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    how, at, _, *options = sys.argv[1:]
    {"step": kill_after_step, "save": kill_in_save}[how](int(at))
    from psad_tf.cli.main import main

    sys.exit(main(["train", *options]))
