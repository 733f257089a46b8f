"""Evaluating again and again holds no more memory than evaluating once."""

from __future__ import annotations

import gc
import os

import pytest
import tensorflow as tf

from psad_tf.config import DataConfig
from psad_tf.data.batches import ListDataset
from psad_tf.data.list_folder import load_encoder
from psad_tf.evaluation.evaluate import Evaluator


def resident_mib() -> float:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_memory_is_flat_over_fifty_epochs_of_validation(lists_dir):
    lists = ListDataset(lists_dir, "train", load_encoder(lists_dir), DataConfig(batch_size=48))

    def rank(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"student": batch["candidate_dense"][..., 0], "teacher": -batch["candidate_dense"][..., 0]}

    evaluator = Evaluator(lists, rank, jit_compile=False)
    for _ in range(5):
        evaluator.run()
    before = resident_mib()
    for _ in range(50):
        evaluator.run()
    # 200 batches of three models: a mebibyte a batch, as seeded draws of chance cost, would be hundreds.
    assert resident_mib() - before < 20
