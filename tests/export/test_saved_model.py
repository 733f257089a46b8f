from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.export import served_layers
from psad_tf.export.inspect import summarize
from psad_tf.export.saved_model import export_saved_model
from psad_tf.export.signatures import GraphOptions, limits_of, raw_specs
from psad_tf.export.versions import claimed_version, next_version
from psad_tf.export.warmup import BATCH_SIZES, raw_tensors
from psad_tf.serving.contract import WARMUP_FILE
from psad_tf.training.run_folder import load_reranker
from tests.export.tiny_run import DECLARATION, make_list

pytestmark = pytest.mark.slow

LISTS = [make_list(1), make_list(2, 9, 0)]

# Everything the graph may use: kernels that any TensorFlow Serving build has.
CORE_OPS = frozenset(
    """AddV2 All Any Assert AssignVariableOp BatchMatMulV2 BiasAdd BroadcastTo Cast ConcatV2 Const
    DecodeProtoV2 DisableCopyOnRead Einsum EnsureShape Equal ExpandDims Fill GatherV2 Greater
    GreaterEqual HashTableV2 Identity InitializeTableFromTextFileV2 IsNan Less LessEqual Log1p MatrixDiagV3
    LogicalAnd LogicalNot LogicalOr LookupTableFindV2 MatMul Max Maximum Mean MergeV2Checkpoints
    Minimum Mul Neg NoOp NotEqual Pack Pad PadV2 ParseExampleV2 ParseSequenceExampleV2 Placeholder Prod Range
    ReadVariableOp RealDiv Relu Reshape ResourceGather RestoreV2 ReduceJoin Rsqrt SaveV2 Select SelectV2
    Shape ShardedFilename Sigmoid Size Slice Softmax Softplus SplitV Square Squeeze
    StatefulPartitionedCall StatelessIf
    StaticRegexFullMatch StopGradient StridedSlice StringJoin StringLength Sub Sum Tile TopKV2
    Transpose Unpack VarHandleOp VarIsInitializedOp ZerosLike FloorDiv FloorMod""".split()
)


@pytest.fixture(scope="module")
def signatures(exported: pathlib.Path) -> Any:
    loaded = tf.saved_model.load(str(exported))
    signatures = loaded.signatures
    signatures.owner = loaded  # the tables live as long as the loaded object
    return signatures


@pytest.fixture(scope="module")
def expected(tiny_run: pathlib.Path) -> dict[str, np.ndarray]:
    encoder, reranker, _ = load_reranker(tiny_run)
    outputs = reranker(encoder(parse_lists(tf.constant(LISTS), DECLARATION)))
    return {name: value.numpy() for name, value in outputs.items()}


def by_examples(signatures: Any, lists: list[bytes]) -> dict[str, np.ndarray]:
    outputs = signatures["rerank_examples"](examples=tf.constant(lists, tf.string))
    return {name: value.numpy() for name, value in outputs.items()}


def by_tensors(signatures: Any, raw: dict[str, Any], name: str = "serving_default") -> dict[str, np.ndarray]:
    outputs = signatures[name](**{key: tf.constant(value) for key, value in raw.items()})
    return {key: value.numpy() for key, value in outputs.items()}


def test_no_variable_of_the_teacher_is_exported(exported: pathlib.Path, tiny_run: pathlib.Path) -> None:
    _, reranker, _ = load_reranker(tiny_run)
    facts = summarize(exported)
    assert not facts.contains_teacher
    assert facts.parameters_exported == reranker.count_params()


def test_a_teacher_in_a_saved_model_is_found(tmp_path: pathlib.Path) -> None:
    module = tf.Module()
    module.teacher = {"kernel": tf.Variable([1.0], name="kernel")}
    tf.saved_model.save(module, str(tmp_path / "model"))
    assert summarize(tmp_path / "model").contains_teacher


def test_only_core_operations_are_used(exported: pathlib.Path) -> None:
    assert set(summarize(exported).ops) <= CORE_OPS


def test_export_and_serving_never_import_the_teacher() -> None:
    program = (
        "import sys, export.saved_model, export.parity, psad_tf.serving.server, psad_tf.serving.client;"
        "print([name for name in sys.modules if name in ('psad_tf.models.teacher', 'psad_tf.models.psad')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_signature_gives_the_scores_of_the_model_in_process(
    signatures: Any, expected: dict[str, np.ndarray]
) -> None:
    raw = raw_tensors(LISTS, DECLARATION)
    unblocked = raw | {"blocked": np.zeros(raw["initial_rank"].shape, bool)}
    answers = [
        by_examples(signatures, LISTS),
        by_tensors(signatures, raw),
        by_tensors(signatures, unblocked, "rerank_masked"),
    ]
    for answer in answers:
        for name, values in expected.items():
            np.testing.assert_allclose(answer[name], values, atol=1e-6)


def test_inputs_are_named_as_on_the_wire(signatures: Any) -> None:
    names = set(signatures["serving_default"].structured_input_signature[1])
    assert names == set(raw_specs(DECLARATION))
    assert {"item_id", "history_item_id", "history_age_seconds", "initial_rank", "age"} <= names


def test_ranking_is_best_first_and_nothing_stands_past_a_lists_end(signatures: Any) -> None:
    answer = by_examples(signatures, LISTS)  # of 6 and 9 candidates
    assert answer["ranking"].dtype == np.int32 and answer["length"].tolist() == [6, 9]
    item_ids = raw_tensors(LISTS, DECLARATION)["item_id"][..., 0]
    for row, length in enumerate(answer["length"]):
        ranking = answer["ranking"][row, :length]
        assert sorted(ranking) == list(range(length))
        assert np.all(np.diff(answer["scores"][row, ranking]) <= 0)
        assert list(answer["item_ids"][row, :length]) == list(item_ids[row, ranking])
        # Nothing past a list's end can be taken for a candidate.
        assert set(answer["ranking"][row, length:]) <= {-1} and set(answer["item_ids"][row, length:]) <= {b""}


def test_a_list_alone_and_in_a_batch_has_the_same_scores(signatures: Any) -> None:
    alone = by_examples(signatures, LISTS[:1])["scores"][0]
    batched = by_examples(signatures, LISTS)["scores"][0]
    np.testing.assert_allclose(alone, batched[: len(alone)], atol=1e-6)


def test_missing_features_have_defaults_in_the_graph(signatures: Any) -> None:
    from tensorflow_serving.apis import input_pb2

    record = input_pb2.ExampleListWithContext()
    for item in (b"i1", b"never seen"):
        record.examples.add().features.feature["item_id"].bytes_list.value.append(item)
    answer = by_examples(signatures, [record.SerializeToString()])
    assert np.all(np.isfinite(answer["scores"])) and sorted(answer["item_ids"][0]) == [b"i1", b"never seen"]


def test_a_blocked_item_is_not_shown_and_does_not_change_the_others(signatures: Any) -> None:
    raw = raw_tensors(LISTS[:1], DECLARATION)
    blocked = np.zeros(raw["initial_rank"].shape, bool)
    blocked[0, 2] = True
    answer = by_tensors(signatures, raw | {"blocked": blocked}, "rerank_masked")
    hidden = raw["item_id"][0, 2, 0]
    assert hidden not in answer["item_ids"][0] and answer["ranking"][0, -1] == 2
    assert answer["probabilities"][0, 2] == 0.0
    without = {
        name: np.delete(value, 2, 1) if value.ndim > 1 and name in _candidate_names() else value
        for name, value in raw.items()
    }
    left = by_tensors(signatures, without)["scores"][0]
    np.testing.assert_allclose(np.delete(answer["scores"][0], 2), left, atol=1e-6)


def _candidate_names() -> set[str]:
    return {"item_id", "genres", "initial_score", "year", "initial_rank"}


def test_blocked_is_also_an_optional_feature_of_serialized_lists(signatures: Any) -> None:
    from tensorflow_serving.apis import input_pb2

    record = input_pb2.ExampleListWithContext.FromString(LISTS[0])
    record.examples[1].features.feature["blocked"].int64_list.value.append(1)
    hidden = record.examples[1].features.feature["item_id"].bytes_list.value[0]
    assert hidden not in by_examples(signatures, [record.SerializeToString()])["item_ids"][0]


def test_a_longer_history_than_declared_is_cut_to_the_most_recent(signatures: Any) -> None:
    raw = raw_tensors([make_list(7, 6, 4)], DECLARATION)
    longer = {
        name: np.concatenate([value, value], 1) if name.startswith("history_") else value
        for name, value in raw.items()
    }
    np.testing.assert_allclose(
        by_tensors(signatures, longer)["scores"], by_tensors(signatures, raw)["scores"], atol=1e-6
    )


def test_a_list_of_more_candidates_than_declared_is_refused(signatures: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 12 candidates"):
        by_examples(signatures, [make_list(1, 13)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 12 candidates"):
        by_tensors(signatures, raw_tensors([make_list(1, 13)], DECLARATION))


@pytest.mark.parametrize("signature", ["rerank_examples", "serving_default", "rerank_masked"])
def test_the_graph_bounds_its_work_before_it_starts(signatures: Any, signature: str) -> None:
    """So that TensorFlow Serving refuses what the embedded server refuses."""
    lists = 32_768 // 12 + 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="send fewer"):
        if signature == "rerank_examples":
            by_examples(signatures, [b""] * (lists - 1) + [b"\n\x00" * 12])
        else:
            raw = raw_tensors([make_list(1, 12)], DECLARATION)
            if signature == "rerank_masked":
                raw["blocked"] = np.zeros([1, 12], bool)
            by_tensors(signatures, {name: np.repeat(v, lists, 0) for name, v in raw.items()}, signature)


def test_lists_of_many_bytes_are_refused_before_they_are_taken_apart(signatures: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large: send fewer lists"):
        by_examples(signatures, [b"\n\x00" * 10_000] + [b""] * 1000)


RAW = raw_tensors([make_list(1, 6, 3), make_list(2, 6, 3)], DECLARATION)


@pytest.mark.parametrize("name", [*RAW, "blocked"])
def test_inputs_that_disagree_are_refused_and_never_broadcast(signatures: Any, name: str) -> None:
    """One user's values must not be applied to the other's list."""
    raw = RAW | {"blocked": np.zeros([2, 6], bool)}
    disagreeing = [raw[name][:1]]
    if raw[name].ndim > 1 and name not in ("user_id", "request_hour"):
        disagreeing += [raw[name][:, :1], raw[name][:1, :1]]
    named = ".*" if name.endswith("item_id") else name  # the others disagree with them
    for values in disagreeing:
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"\[input\] \[{named}\] \[disagrees"):
            by_tensors(signatures, raw | {name: values}, "rerank_masked")


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, -1e30, 3e38])
@pytest.mark.parametrize("name", ["year", "initial_score", "age", "history_rating", "history_age_seconds"])
def test_no_number_makes_a_score_that_is_none(signatures: Any, name: str, value: float) -> None:
    """`year` has no transform: nothing but the graph stands between it and the scores."""
    raw = {key: values.copy() for key, values in RAW.items()}
    raw[name].flat[0] = value
    answer = by_tensors(signatures, raw)
    assert np.all(np.isfinite(answer["scores"])) and np.all(np.isfinite(answer["probabilities"]))
    assert sorted(answer["ranking"][0]) == list(range(6))
    unchanged = by_tensors(signatures, RAW)["scores"]
    np.testing.assert_allclose(answer["scores"][1], unchanged[1], atol=1e-6)  # the other list's


def test_an_initial_rank_beyond_32_bits_is_no_other_rank(signatures: Any) -> None:
    far, further = (RAW | {"initial_rank": np.full([2, 6], rank, np.int64)} for rank in (2**31 - 1, 2**40))
    np.testing.assert_array_equal(
        by_tensors(signatures, far)["scores"], by_tensors(signatures, further)["scores"]
    )


def test_the_graph_parses_serialized_lists_as_training_does() -> None:
    from tensorflow_serving.apis import input_pb2

    from psad_tf.data.parsing import candidate_spec, context_spec
    from psad_tf.export.examples import parse_examples, split_lists

    bare = input_pb2.ExampleListWithContext()
    bare.examples.add()
    lists = tf.constant([*LISTS, bare.SerializeToString(), b""])
    examples = split_lists(lists, limits_of(DECLARATION))
    found = parse_examples(*examples, context_spec(DECLARATION), candidate_spec(DECLARATION))
    for name, values in parse_lists(lists, DECLARATION).items():
        if name.startswith("history_"):  # cut and padded to the declared length later
            values = values[:, : found[name].shape[1]]
        elif name in candidate_spec(DECLARATION):
            values = tf.reshape(values, [-1, *values.shape[2:]])
        np.testing.assert_array_equal(found[name].numpy(), values.numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("one left out", lambda features: features.pop("year")),
        ("an unknown one", lambda features: features["other"].int64_list.value.append(1)),
        ("an integer for a number", lambda features: features["year"].int64_list.value.append(1)),
        ("too many values", lambda features: features["genres"].bytes_list.value.append(b"war")),
        ("too few values", lambda features: features["genres"].bytes_list.value.pop()),
        ("no values", lambda features: features["year"].float_list.ClearField("value")),
    ],
)
def test_the_graph_takes_and_refuses_the_candidates_that_training_does(
    name: str, change: Callable[[Any], object]
) -> None:
    from tensorflow_serving.apis import input_pb2

    from psad_tf.data.parsing import candidate_spec, context_spec
    from psad_tf.export.examples import parse_examples

    def found(parse: Callable[[], Mapping[str, tf.Tensor]]) -> dict[str, list[object]] | None:
        try:
            return {name: values.numpy().tolist() for name, values in parse().items()}
        except tf.errors.InvalidArgumentError:
            return None

    spec = candidate_spec(DECLARATION)
    example = input_pb2.ExampleListWithContext.FromString(LISTS[0]).examples[0]
    change(example.features.feature)
    # A feature that comes twice: the last one counts.
    candidates = [example.SerializeToString(), example.SerializeToString() * 2, b""]
    expected = found(lambda: tf.io.parse_example(candidates, spec))
    context = context_spec(DECLARATION)
    ours = found(lambda: parse_examples(tf.constant([""]), tf.constant([candidates]), context, spec))
    np.testing.assert_equal(ours and {name: ours[name] for name in spec}, expected)
    assert (expected is None) == (name not in ("one left out", "an unknown one"))


def test_no_candidates_is_an_empty_ranking_not_an_error(signatures: Any) -> None:
    answer = by_examples(signatures, [make_list(1, 0)])
    assert list(answer["item_ids"][0]) in ([], [b""])


def changed_run(
    run: pathlib.Path, copy: pathlib.Path, change: Callable[[tf.keras.Model], None]
) -> pathlib.Path:
    """A copy of a run whose weights are changed."""
    _, reranker, _ = load_reranker(run)
    change(reranker)
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "best")
    tf.train.Checkpoint(reranker=reranker).save(str(copy / "best" / "ckpt"))
    return copy


@pytest.mark.parametrize("constant_bytes", [0, served_layers.CONSTANT_TABLE_BYTES])
def test_float16_ranks_as_the_plain_graph_does(
    constant_bytes: int,
    tiny_run: pathlib.Path,
    tmp_path: pathlib.Path,
    signatures: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_layers, "CONSTANT_TABLE_BYTES", constant_bytes)
    loaded = tf.saved_model.load(export_saved_model(tiny_run, tmp_path, options=GraphOptions(float16=True)))
    expected, found = by_examples(signatures, LISTS), by_examples(loaded.signatures, LISTS)
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=5e-3)


@pytest.mark.parametrize("top_m", [0, 4, 11])
def test_compiled_by_xla_every_answer_is_the_plain_graphs_without_what_was_padded(
    top_m: int, tiny_run: pathlib.Path, tmp_path: pathlib.Path, signatures: Any
) -> None:
    options = GraphOptions(top_m=top_m, jit_compile=True)
    loaded = tf.saved_model.load(export_saved_model(tiny_run, tmp_path, options=options))
    lists = [*LISTS, make_list(3, 1, 9)]  # three lists become four, and nine candidates twelve
    raw = raw_tensors(lists, DECLARATION)
    blocked = {"blocked": np.arange(3 * 9).reshape(3, 9) % 4 == 1}
    for call in (
        lambda of: by_examples(of, lists),
        lambda of: by_tensors(of, raw),
        lambda of: by_tensors(of, raw | blocked, "rerank_masked"),
    ):
        expected, found = call(signatures), call(loaded.signatures)
        for name in ("scores", "probabilities"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
        for name in ("ranking", "item_ids"):
            np.testing.assert_array_equal(found[name], expected[name][:, : top_m or None])
        np.testing.assert_array_equal(found["length"], expected["length"])


def test_float16_halves_the_matrices_on_disk(
    tiny_run: pathlib.Path, tmp_path: pathlib.Path, exported: pathlib.Path
) -> None:
    path = pathlib.Path(export_saved_model(tiny_run, tmp_path, options=GraphOptions(float16=True)))
    sizes = [(each / "variables/variables.data-00000-of-00001").stat().st_size for each in (path, exported)]
    assert sizes[0] < 0.75 * sizes[1]
    assert summarize(path).parameters_exported == summarize(exported).parameters_exported


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (["item_id/embedding_table"], 7e4),
        (["position_mixture/kernel"], 7e4),
        (["candidate/out/kernel", "student_scorer/candidate/kernel"], 3e2),  # whose product is served
    ],
    ids=["table", "kernel", "product"],
)
def test_a_weight_that_float16_cannot_hold_is_refused(
    tiny_run: pathlib.Path, tmp_path: pathlib.Path, names: list[str], value: float
) -> None:
    def enlarge(reranker: tf.keras.Model) -> None:
        weights = [each for each in reranker.trainable_variables if any(name in each.name for name in names)]
        assert len(weights) == len(names)
        for weight in weights:
            weight.assign(tf.fill(weight.shape, value))

    run = changed_run(tiny_run, tmp_path / "run", enlarge)
    with pytest.raises(InputError, match="beyond 65,504, float16's largest: export without float16"):
        export_saved_model(run, tmp_path / "models", options=GraphOptions(float16=True))
    assert not list((tmp_path / "models").rglob("saved_model.pb"))


def test_top_m_shortens_the_ranking_only(tiny_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    loaded = tf.saved_model.load(export_saved_model(tiny_run, tmp_path, options=GraphOptions(top_m=3)))
    answer = by_examples(loaded.signatures, LISTS)
    assert answer["ranking"].shape == answer["item_ids"].shape == (2, 3) and answer["scores"].shape == (2, 9)


def test_warm_up_records_replay_every_signature_at_several_batch_sizes(
    exported: pathlib.Path, signatures: Any
) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    seen = set()
    for record in tf.data.TFRecordDataset(str(exported / WARMUP_FILE)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "psad"
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        signature = request.model_spec.signature_name
        answer = signatures[signature](**inputs)
        seen.add((signature, int(answer["scores"].shape[0])))
    names = {"serving_default", "rerank_examples", "rerank_masked"}
    assert {name for name, _ in seen} == names and {size for _, size in seen} >= {1, 2, 32}


def test_warm_up_covers_the_numbers_of_candidates_that_traffic_will_have(
    tiny_run: pathlib.Path, tiny_lists: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    path = export_saved_model(tiny_run, tmp_path, lists_dir=tiny_lists, warmup_candidates=(3, 11))
    shapes: dict[str, set[tuple[int, ...]]] = {"serving_default": set(), "rerank_masked": set()}
    for record in tf.data.TFRecordDataset(str(pathlib.Path(path) / WARMUP_FILE)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        if request.model_spec.signature_name != "rerank_examples":
            ranks = tf.make_ndarray(request.inputs["initial_rank"])
            shapes[request.model_spec.signature_name].add(ranks.shape)
            np.testing.assert_array_equal(ranks, np.tile(np.arange(ranks.shape[1]), (len(ranks), 1)))
    expected_shapes = {(size, count) for size in BATCH_SIZES for count in (3, 11)}
    assert shapes == {"serving_default": expected_shapes, "rerank_masked": expected_shapes}


@pytest.mark.parametrize(
    ("counts", "message"), [((0,), "0 candidates"), ((13,), "1 to 12"), ((2,) * 99, "at most 27")]
)
def test_impossible_numbers_of_warm_up_candidates_are_refused(
    tiny_run: pathlib.Path, tiny_lists: pathlib.Path, tmp_path: pathlib.Path, counts: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_saved_model(tiny_run, tmp_path, lists_dir=tiny_lists, warmup_candidates=counts)
    assert not list(tmp_path.glob("psad/*"))


def test_versions_count_up_and_are_never_overwritten(tiny_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "psad" / "4").mkdir(parents=True)
    (tmp_path / "psad" / "9.tmp").mkdir()
    assert next_version(str(tmp_path / "psad")) == 5
    with pytest.raises(InputError, match="already there"):
        export_saved_model(tiny_run, tmp_path, version=4)


def test_exports_at_the_same_time_write_versions_of_their_own(tmp_path: pathlib.Path) -> None:
    folder, claimed = str(tmp_path / "psad"), threading.Barrier(4)
    numbers: list[int] = []

    def export() -> None:
        with claimed_version(folder) as number:
            numbers.append(number)
            claimed.wait(30)
            (tmp_path / "psad" / str(number)).mkdir()

    threads = [threading.Thread(target=export) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4]
    assert sorted(os.listdir(folder)) == ["1", "2", "3", "4"]  # no claim is left


def test_a_number_that_another_export_writes_is_refused(tmp_path: pathlib.Path) -> None:
    with (
        claimed_version(str(tmp_path), 3),
        pytest.raises(InputError, match="another export writes version 3"),
    ):
        with claimed_version(str(tmp_path), 3):
            pass


def test_a_run_that_diverged_is_not_exported(tiny_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def spoil(reranker: tf.keras.Model) -> None:
        weight = reranker.trainable_variables[0]
        weight.assign(tf.fill(weight.shape, float("nan")))

    run = changed_run(tiny_run, tmp_path / "run", spoil)
    with pytest.raises(InputError, match="not finite numbers: the training diverged"):
        export_saved_model(run, tmp_path / "models")


def test_a_failed_export_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        export_saved_model(tmp_path / "missing", tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b"])
def test_a_model_name_that_is_a_path_is_refused(
    tiny_run: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    with pytest.raises(InputError, match="model name"):
        export_saved_model(tiny_run, tmp_path, model_name=name)


def test_the_model_card_tells_data_metrics_configuration_and_commit(exported: pathlib.Path) -> None:
    card = json.loads((exported / "assets.extra/model_card.json").read_text())
    assert card["metrics"] == {"valid": {"ndcg@10": 0.5}} and card["data"]["lists"] == {"test": 6}
    assert card["configuration"]["model"]["embedding_dim"] == 8
    assert card["commit"] is None or len(card["commit"]) == 40
    assert "teacher" in (exported / "assets.extra/model_card.md").read_text()


def test_a_damaged_saved_model_is_named(exported: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="not a SavedModel"):
        summarize(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes((exported / "saved_model.pb").read_bytes())
    with pytest.raises(InputError, match="not a whole SavedModel"):
        summarize(tmp_path)
