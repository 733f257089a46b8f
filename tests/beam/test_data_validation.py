"""TensorFlow Data Validation reads schema.pbtxt, finds nothing wrong with the lists, and finds broken ones.

TFDV reads tf.Examples and not lists of them. So each candidate becomes one tf.Example of its own features and
of its list's context, as the schema describes them side by side.
"""

import os

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from tests.beam import logs
from tests.beam.logs import DECLARATION

pytestmark = pytest.mark.slow

tfdv = pytest.importorskip("tensorflow_data_validation")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validated")
    raw = logs.write_folder(folder / "raw", logs.records())
    options = PreprocessOptions(num_shards=1, latest_time=logs.START * 2)
    preprocess(raw, folder / "lists", DECLARATION, options=options)
    return folder / "lists"


def _write_examples(lists, path):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in lists:
            for example in each.examples:
                joined = tf.train.Example()
                joined.CopyFrom(each.context)
                joined.MergeFrom(example)
                writer.write(joined.SerializeToString())


def _anomalies(lists, output, tmp_path):
    _write_examples(lists, tmp_path / "examples.tfrecord")
    schema = tfdv.load_schema_text(os.path.join(output, "schema.pbtxt"))
    statistics = tfdv.generate_statistics_from_tfrecord(
        str(tmp_path / "examples.tfrecord"), stats_options=tfdv.StatsOptions(schema=schema)
    )
    found = tfdv.validate_statistics(statistics, schema)
    return statistics, {name: info.short_description for name, info in found.anomaly_info.items()}


def test_the_lists_agree_with_the_schema(output, tmp_path):
    lists = list(logs.read_lists(output).values())
    statistics, anomalies = _anomalies(lists, output, tmp_path)
    assert anomalies == {}
    (dataset,) = statistics.datasets
    assert dataset.num_examples == sum(len(each.examples) for each in lists)
    prices = [logs.values(example, "price")[0] for each in lists for example in each.examples]
    by_name = {feature.path.step[0]: feature for feature in dataset.features}
    assert by_name["price"].num_stats.mean == pytest.approx(np.mean(prices), rel=1e-6)
    assert by_name["item_id"].string_stats.unique > 10


def test_lists_that_break_the_schema_are_found_out(output, tmp_path):
    lists = list(logs.read_lists(output).values())
    for each in lists:
        each.context.features.feature["device"].bytes_list.value.append(b"a second device")
        for example in each.examples:
            del example.features.feature["price"]
            example.features.feature["year"].int64_list.value.append(1)
    _, anomalies = _anomalies(lists, output, tmp_path)
    assert set(anomalies) == {"device", "price", "year"}
