"""The Trainer's `run_fn`: the same training and export as `psad train` and `psad export`."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import Any

from psad_tf.config import TrainConfig
from psad_tf.export.saved_model import export_saved_model
from psad_tf.tfx_pipeline.settings import MODEL_NAME, TRAIN
from psad_tf.training.trainer import train

RUN = "run"


def run_fn(fn_args: Any) -> None:
    """Trains a run and exports its User Profile Network and student.

    Args:
        fn_args: `tfx.components.FnArgs`. Read are `train_files`, patterns `<lists>/Split-train/*` in a folder
            of lists; `custom_config`, with the training configuration under `train` and the model's name;
            `model_run_dir`, where the run folder is written; and `serving_model_dir`, where the SavedModel
            goes.
    """
    (pattern,) = fn_args.train_files
    lists_dir = os.path.dirname(os.path.dirname(pattern))
    config = TrainConfig.from_dict(fn_args.custom_config[TRAIN], "train configuration")
    run_dir = os.path.join(fn_args.model_run_dir, RUN)
    train(lists_dir, run_dir, config)
    export_run(run_dir, lists_dir, fn_args.serving_model_dir, fn_args.custom_config[MODEL_NAME])


def export_run(run_dir: str, lists_dir: str, serving_model_dir: str, model_name: str) -> None:
    """Exports a run to the very folder `serving_model_dir`, with warm-up records of its validation lists."""
    parent = os.path.dirname(serving_model_dir)
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as base:
        made = export_saved_model(
            run_dir,
            base,
            model_name=model_name,
            version=int(time.time()),
            lists_dir=lists_dir,
            warmup_split="valid",
        )
        shutil.rmtree(serving_model_dir, ignore_errors=True)
        os.rename(made, serving_model_dir)
