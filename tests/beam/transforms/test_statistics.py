import dataclasses
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psad_tf.beam.transforms.statistics import MERGE_SUMMARIES, DenseStatistics, DenseSummary
from psad_tf.data.encode_record import ListValues, RecordEncoder
from psad_tf.features import DenseFeature, HistoryDeclaration
from tests.beam import logs
from tests.beam.logs import DECLARATION

FLOATS = st.lists(st.floats(width=32, allow_infinity=False), max_size=30)


def _summary(*parts):
    return DenseSummary(
        *MERGE_SUMMARIES.apply([DenseSummary.of(np.asarray(p, np.float32)) for p in parts])
    ).to_dict()


@given(FLOATS, FLOATS, FLOATS)
def test_no_cut_and_no_order_changes_a_single_bit(a, b, c):
    whole = [*a, *b, *c]
    random.Random(0).shuffle(whole)
    assert json.dumps(_summary(a, b, c)) == json.dumps(_summary(c, a, b)) == json.dumps(_summary(whole))


def test_mean_and_deviation_are_those_of_the_values_there():
    values = np.random.default_rng(0).normal(3, 2, 1000).astype(np.float32)
    found = _summary([*values, math.nan, math.nan])
    assert (found["count"], found["missing"]) == (1002, 2)
    assert found["mean"] == pytest.approx(values.astype(float).mean(), rel=1e-12)
    assert found["std"] == pytest.approx(values.astype(float).std(), rel=1e-12)
    assert (found["min"], found["max"]) == (values.min(), values.max())


def test_a_small_spread_around_a_large_mean_is_not_lost():
    found = _summary([16777214.0, 16777215.0, 16777216.0] * 1000)
    assert found["std"] == pytest.approx(math.sqrt(2 / 3), rel=1e-12)


def test_the_deviation_of_equal_values_is_one():
    assert _summary([0.1] * 7)["std"] == 1.0


def test_no_value_at_all_is_standardized_to_zero():
    assert _summary([math.nan]) == {"count": 1, "missing": 1, "mean": 0.0, "std": 1.0, "min": 0.0, "max": 0.0}


def test_logarithms_are_taken_of_what_is_not_negative(tmp_path):
    declaration = dataclasses.replace(
        DECLARATION,
        context_dense=(DenseFeature("plain"), DenseFeature("log", "log1p_standardize")),
        candidate_dense=(), history=HistoryDeclaration(dense=()),
    )  # fmt: skip
    lists = [
        ListValues("r", 0, [], [value, value], [], [], [()], [()], [], [], 0)
        for value in (-1.0, 0.0, math.e - 1)
    ]
    (found,) = logs.outputs(DenseStatistics(declaration), tmp_path, lists).elements[""]
    assert found["log"]["mean"] == pytest.approx(1 / 3, rel=1e-6)
    assert (found["log"]["min"], found["plain"]["min"]) == (0.0, -1.0)


def test_the_summaries_are_those_of_all_values_however_they_were_combined(tmp_path):
    encoder = RecordEncoder(DECLARATION, {}.get)
    lists = [encoder.encode(logs.impression(n, 1, logs.START + n, range(n % 5 + 1))) for n in range(50)]
    (found,) = logs.outputs(DenseStatistics(DECLARATION), tmp_path, lists).elements[""]
    prices = np.array([row[1] for each in lists for row in each.dense], np.float32)
    assert found["price"]["mean"] == pytest.approx(prices.astype(float).mean(), rel=1e-12)
    assert found["price"]["count"] == len(prices)
    assert found["age"] == {"count": 50, "missing": 50, "mean": 0.0, "std": 1.0, "min": 0.0, "max": 0.0}
