"""What the evaluator refuses to measure."""

from __future__ import annotations

import pytest
import tensorflow as tf

from psad_tf.config import DataConfig
from psad_tf.data.batches import ListDataset
from psad_tf.data.list_folder import load_encoder
from psad_tf.errors import InputError
from psad_tf.evaluation.evaluate import Evaluator


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_not_measured(lists_dir, score):
    lists = ListDataset(lists_dir, "test", load_encoder(lists_dir), DataConfig(batch_size=48))

    def rank(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        first = tf.one_hot(tf.zeros_like(batch["mask"][:, 0], tf.int32), 8, tf.constant(score), 0.0)
        return {"student": first[:, : tf.shape(batch["mask"])[1]]}

    with pytest.raises(InputError, match="test lists: scores of the student are not finite numbers"):
        Evaluator(lists, rank, jit_compile=False).run()
