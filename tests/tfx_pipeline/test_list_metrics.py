"""The Keras metric by list: the library's numbers, however the lists are batched."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.metrics import METRICS, mean_metrics, per_list_metrics
from psad_tf.tfx_pipeline import list_metrics
from psad_tf.tfx_pipeline.list_metrics import ListMetric


@pytest.fixture(scope="module")
def lists():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (20, 7)).astype(np.float32)
    labels[3] = 0.0  # a list without a positive label
    labels[:, 5:] = np.where(random.random((20, 1)) < 0.5, -1.0, labels[:, 5:])
    return labels, random.normal(size=labels.shape).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_the_mean_that_evaluation_reports(lists, metric):
    labels, scores = lists
    expected = mean_metrics(per_list_metrics(scores, labels, where=labels >= 0))[metric]
    measured = ListMetric(metric)
    for start in range(0, 20, 6):
        measured.update_state(labels[start : start + 6], scores[start : start + 6])
    assert float(measured.result()) == pytest.approx(expected, abs=1e-6)


def test_the_gain_of_the_initial_order_over_itself_is_nothing(lists):
    labels, _ = lists
    gain = ListMetric("ndcg@10", gain=True)
    gain.update_state(labels, -np.tile(np.arange(7.0), (20, 1)))
    assert float(gain.result()) == 0.0


def test_it_works_inside_a_graph_and_from_its_configuration(lists):
    labels, scores = lists
    one = ListMetric("map@5", name="map_5")
    other = ListMetric.from_config(one.get_config())
    one.update_state(labels, scores)

    @tf.function
    def update() -> None:
        other.update_state(labels, scores)

    update()
    assert float(one.result()) == float(other.result()) > 0.0


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="ndgc@10"):
        ListMetric("ndgc@10")


def test_the_documented_example_holds():
    assert doctest.testmod(list_metrics).failed == 0
