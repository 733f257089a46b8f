"""A `run_fn` that gives out a spoilt model: the first run's, with the sign of its scores turned."""

from __future__ import annotations

import os
import shutil
from typing import Any

import tensorflow as tf

from psad_tf.tfx_pipeline.trainer import RUN, export_run
from psad_tf.training.run_folder import load_reranker


def run_fn(fn_args: Any) -> None:
    (pattern,) = fn_args.train_files
    lists_dir = os.path.dirname(os.path.dirname(pattern))
    runs = os.path.dirname(fn_args.model_run_dir)
    first = min((name for name in os.listdir(runs) if name.isdecimal()), key=int)
    run_dir = os.path.join(fn_args.model_run_dir, RUN)
    shutil.copytree(os.path.join(runs, first, RUN), run_dir)
    _, reranker, _ = load_reranker(run_dir)
    student = reranker.student.trainable_variables
    last = [each for each in student if each.shape[-1:] == [1] and "calibration" not in each.name]
    for variable in last:
        variable.assign(-variable)
    assert last
    tf.train.CheckpointManager(
        tf.train.Checkpoint(reranker=reranker), os.path.join(run_dir, "best"), max_to_keep=1
    ).save(checkpoint_number=99)
    export_run(run_dir, lists_dir, fn_args.serving_model_dir, "psad")
