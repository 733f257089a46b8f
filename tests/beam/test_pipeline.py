import dataclasses
import json
import os

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.pipeline import PipelineVisitor
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from psad_tf.beam.options import PreprocessOptions, SplitPolicy
from psad_tf.beam.pipeline import MakeLists, preprocess
from psad_tf.beam.sources import RawInputs
from psad_tf.errors import InputError
from psad_tf.features import CategoricalFeature, DenseFeature, FeatureDeclaration, LabelDeclaration, LabelRule
from tests.beam import expected as wanted
from tests.beam import logs
from tests.beam.logs import DECLARATION

pytestmark = pytest.mark.slow

LATEST = logs.START + 10**7
OPTIONS = PreprocessOptions(num_shards=2, latest_time=LATEST, max_dropped=1.0)


@pytest.fixture(scope="module")
def data():
    return logs.records()


@pytest.fixture(scope="module")
def raw(tmp_path_factory, data):
    return logs.write_folder(tmp_path_factory.mktemp("raw data"), data)


@pytest.fixture(scope="module")
def made(tmp_path_factory, raw):
    output = tmp_path_factory.mktemp("made") / "lists"
    return output, preprocess(raw, output, DECLARATION, options=OPTIONS)


@pytest.fixture(scope="module")
def lists(made):
    return logs.read_lists(made[0])


def test_every_list_is_what_the_plain_writer_makes(lists, data):
    expected = wanted.lists(data, DECLARATION)
    assert sorted(lists) == sorted(expected)
    for request_id, each in expected.items():
        # Text, because NaN is not equal to itself.
        assert text_format.MessageToString(lists[request_id]) == text_format.MessageToString(each)


def test_a_list_of_fifty_of_which_ten_were_shown_says_so(data, tmp_path):
    request = logs.impression(900, 1, logs.START, range(50))
    for rank, candidate in enumerate(request["candidates"]):
        if rank % 5 == 2:
            candidate["position"] = 9 - rank // 5
        else:
            del candidate["feedback"]
    logged = {**data, "impressions": [*data["impressions"], request]}
    declaration = dataclasses.replace(DECLARATION, max_candidates=50)
    preprocess(logs.write_folder(tmp_path / "raw", logged), tmp_path / "lists", declaration, options=OPTIONS)
    found = logs.read_lists(tmp_path / "lists")["request-900"]
    expected = wanted.lists(logged, declaration)["request-900"]
    assert text_format.MessageToString(found) == text_format.MessageToString(expected)
    slots = [logs.values(each, "shown_position")[0] for each in found.examples]
    assert slots == [9 - rank // 5 if rank % 5 == 2 else -1 for rank in range(50)]


def test_a_planted_future_is_in_no_history(data, raw, made, tmp_path):
    """The answer to each request, logged in its own second and later, changes not a byte of a list."""
    planted = [
        {"user_id": each["user_id"], "item_id": candidate["item_id"], "time": each["time"] + later,
         "feedback": {"rating": 5}}
        for each in data["impressions"]
        for later, candidate in enumerate(each["candidates"])
    ]  # fmt: skip
    latest = {}
    for each in data["impressions"]:
        latest[each["user_id"]] = max(each["time"], latest.get(each["user_id"], 0))
    # What is planted at an earlier request is a later one's past: only a user's last moments are the future.
    future = [row for row in planted if row["time"] >= latest[row["user_id"]]]
    assert len(future) > len(latest)
    spoilt = logs.write_folder(
        tmp_path / "raw", {**data, "interactions": [*future, *data["interactions"], *future]}
    )
    preprocess(spoilt, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert logs.digests(tmp_path / "lists") == logs.digests(made[0])
    # With all of them planted, every one in a history is at least a second old.
    everything = logs.write_folder(tmp_path / "all", {**data, "interactions": planted})
    preprocess(everything, tmp_path / "lists", DECLARATION, options=OPTIONS)
    found = logs.read_lists(tmp_path / "lists").values()
    ages = [age for each in found for age in logs.values(each.context, "history_age_seconds")]
    assert len(ages) > 100 and min(ages) >= 1


def test_lists_are_split_by_time(made, data):
    times = {}
    for split in ("train", "valid", "test"):
        found = logs.read_lists(made[0], split).values()
        times[split] = [logs.values(each.context, "request_time")[0] for each in found]
    sizes = {split: len(found) for split, found in times.items()}
    assert sizes == made[1]["lists"] == {"train": 32, "valid": 4, "test": 4}
    assert max(times["train"]) < min(times["valid"]) <= max(times["valid"]) < min(times["test"])


def test_vocabularies_hold_the_training_lists_values_by_frequency(made):
    train = list(logs.read_lists(made[0], "train").values())
    for name, expected in wanted.vocabularies(train, DECLARATION).items():
        text = (made[0] / "vocabularies" / f"{name}.txt").read_text(encoding="utf-8")
        assert text == "".join(value + "\n" for value in expected), name


def test_statistics_are_those_of_the_training_lists(made):
    train = list(logs.read_lists(made[0], "train").values())
    found = json.loads((made[0] / "statistics.json").read_text())
    assert list(found) == list(DECLARATION.dense_keys)
    for key, values in wanted.dense_values(train, DECLARATION).items():
        there = values[~np.isnan(values)]
        entry = found[key]
        assert (entry["count"], entry["missing"]) == (len(values), np.isnan(values).sum()), key
        np.testing.assert_allclose(
            [entry["mean"], entry["std"], entry["min"], entry["max"]],
            [there.mean(), there.std(), there.min(), there.max()],
            rtol=1e-6, err_msg=key,
        )  # fmt: skip


def test_the_schema_names_every_feature_of_the_records(made, lists):
    schema = text_format.Parse((made[0] / "schema.pbtxt").read_text(), schema_pb2.Schema())
    declared = {feature.name for feature in schema.feature}
    each = next(iter(lists.values()))
    assert declared == set(each.context.features.feature) | set(each.examples[0].features.feature)


def test_the_manifest_tells_what_is_there(made):
    output, manifest = made
    assert manifest == json.loads((output / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("psad-lists", 1)
    assert FeatureDeclaration.from_dict(manifest["declaration"]) == DECLARATION
    digests = logs.digests(output)
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == digests
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (output / name).stat().st_size
    assert manifest["counts"]["read"] == manifest["counts"]["written"] == 40
    assert sum(manifest["lists"].values()) == 40
    without = manifest["joins"]
    assert without["lists_without_user"] > 0 and without["candidates_without_item"] > 0
    assert sorted(os.listdir(output)) == [
        "manifest.json", "schema.pbtxt", "statistics.json", "test", "train", "valid", "vocabularies",
    ]  # fmt: skip


def test_the_size_of_buffers_changes_no_byte(made, raw, tmp_path):
    options = dataclasses.replace(OPTIONS, buffer_bytes=2000)
    preprocess(raw, tmp_path / "lists", DECLARATION, options=options)
    assert logs.digests(tmp_path / "lists") == logs.digests(made[0])


def test_the_number_of_shards_changes_no_list_vocabulary_or_statistic(made, lists, raw, tmp_path):
    output = tmp_path / "lists"
    # More shards than lists: an empty shard is a file too.
    preprocess(raw, output, DECLARATION, options=dataclasses.replace(OPTIONS, num_shards=50))
    assert len(os.listdir(output / "test")) == 50
    found = logs.read_lists(output)
    assert {key: each.SerializeToString(deterministic=True) for key, each in found.items()} == {
        key: each.SerializeToString(deterministic=True) for key, each in lists.items()
    }
    ours, theirs = logs.digests(output), logs.digests(made[0])
    for name in theirs:
        if not name.endswith(".gz"):
            assert ours[name] == theirs[name]


def test_the_order_of_the_logs_lines_and_files_changes_no_byte(made, data, tmp_path):
    turned = {kind: rows[::-1] for kind, rows in data.items()}
    halves = {"impressions": turned["impressions"][:11], "interactions": turned["interactions"][:100]}
    first = logs.write_folder(tmp_path / "a", {**turned, **halves})
    second = logs.write_folder(
        tmp_path / "b",
        {"impressions": turned["impressions"][11:], "interactions": turned["interactions"][100:]},
    )
    inputs = RawInputs(
        impressions=(f"{second}/impr*.jsonl", f"{first}/impressions.jsonl"),
        interactions=(f"{tmp_path}/*/interactions.jsonl",),
        users=(f"{first}/users.jsonl",),
        items=(f"{first}/items.jsonl",),
    )
    preprocess(inputs, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert logs.digests(tmp_path / "lists") == logs.digests(made[0])


def test_a_records_own_split_decides(data, tmp_path):
    marked = [
        {**each, "split": "test" if number == 0 else "train"}
        for number, each in enumerate(data["impressions"])
    ]
    marked[1]["split"] = None
    raw = logs.write_folder(tmp_path / "raw", {**data, "impressions": marked})
    manifest = preprocess(
        raw, tmp_path / "lists", DECLARATION,
        options=dataclasses.replace(OPTIONS, split=SplitPolicy(valid_from=0, test_from=LATEST)),
    )  # fmt: skip
    assert manifest["lists"] == {"train": 38, "valid": 1, "test": 1}
    assert list(logs.read_lists(tmp_path / "lists", "test")) == ["request-0"]


def test_rare_values_and_values_over_the_cap_are_left_out(made, raw, tmp_path):
    whole = (made[0] / "vocabularies" / "item_id.txt").read_text().splitlines()
    preprocess(
        raw, tmp_path / "lists", DECLARATION,
        options=dataclasses.replace(OPTIONS, max_vocabulary_size=5, vocabulary_min_count=2),
    )  # fmt: skip
    assert (tmp_path / "lists" / "vocabularies" / "item_id.txt").read_text().splitlines() == whole[:5]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"context_categorical": (CategoricalFeature("user_id"), CategoricalFeature("colour"))}, "'colour'"),
        ({"context_dense": (DenseFeature("height"),)}, "'height'"),
        ({"candidate_categorical": (CategoricalFeature("item_id"), CategoricalFeature("brand"))}, "'brand'"),
        ({"candidate_dense": (DenseFeature("initial_score"), DenseFeature("margin"))}, "'margin'"),
        ({"label": LabelDeclaration((LabelRule("clicked", 1, 1),))}, "'clicked'"),
        (
            {"history": dataclasses.replace(DECLARATION.history, dense=(DenseFeature("dwell"),))},
            "'history_dwell'",
        ),
    ],
)
def test_a_declared_feature_that_occurs_nowhere_is_named_and_nothing_is_written(raw, tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        preprocess(raw, tmp_path / "lists", dataclasses.replace(DECLARATION, **change), options=OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_lists_without_a_training_list_are_refused(raw, tmp_path):
    options = dataclasses.replace(OPTIONS, split=SplitPolicy(valid_from=0, test_from=0))
    with pytest.raises(InputError, match="no list is in the train split"):
        preprocess(raw, tmp_path / "lists", DECLARATION, options=options)


def test_an_older_output_is_replaced_whole(raw, tmp_path):
    (tmp_path / "lists" / "train").mkdir(parents=True)
    (tmp_path / "lists" / "train" / "part-00099-of-00100.tfrecord.gz").write_bytes(b"old")
    preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert sorted(os.listdir(tmp_path / "lists" / "train")) == [
        "part-00000-of-00002.tfrecord.gz", "part-00001-of-00002.tfrecord.gz",
    ]  # fmt: skip
    assert os.listdir(tmp_path) == ["lists"]


def test_only_what_has_few_keys_is_combined_before_the_shuffle():
    """Beam keeps up to a million partial results of such a step in a worker's memory."""

    class Combined(PipelineVisitor):
        def __init__(self):
            self.labels = set()

        def enter_composite_transform(self, transform_node):
            if isinstance(transform_node.transform, beam.CombinePerKey):
                self.labels.add("/".join(transform_node.full_label.split("/")[1:3]))

    pipeline, combined = beam.Pipeline(), Combined()
    pipeline | "Make lists" >> MakeLists([], "folder", DECLARATION, OPTIONS)
    pipeline.visit(combined)
    assert combined.labels == {
        "Find split points/Lists a span",
        "Find split points/All spans",
        "Find split points/Lists a second",
        "Find split points/All seconds",
        "Statistics/Merge",
        "Statistics/All",
    }
