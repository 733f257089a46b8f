"""The record's rules, and the bytes that TensorFlow's own messages read."""

import gc
import math
import weakref

from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import input_pb2

from psad_tf.data.encode_record import ListValues, RecordEncoder, sortable, text_of
from psad_tf.data.list_protos import ListSerializer
from psad_tf.features import CategoricalFeature, DenseFeature, FeatureDeclaration, HistoryDeclaration

DECLARATION = FeatureDeclaration(
    context_categorical=(CategoricalFeature("user_id"), CategoricalFeature("request_hour")),
    context_dense=(DenseFeature("age"),),
    history=HistoryDeclaration(
        3,
        (CategoricalFeature("item_id"), CategoricalFeature("genres", width=2)),
        (DenseFeature("rating"), DenseFeature("age_seconds")),
    ),
    candidate_categorical=(CategoricalFeature("item_id"), CategoricalFeature("genres", width=2)),
    candidate_dense=(DenseFeature("price"), DenseFeature("initial_score")),
)
ITEMS = {"a": {"genres": ["war", "drama", "cut"], "price": 3}}
ENCODER = RecordEncoder(DECLARATION, ITEMS.get)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
INTERACTIONS = st.lists(st.tuples(st.integers(0, 20), TEXT, st.sampled_from([None, 1.0, 2.0])), max_size=12)


def _list(**changes):
    return {"request_id": "r", "user_id": "u", "time": 7200, "candidates": [{"item_id": "a"}], **changes}


@given(TEXT, TEXT, st.binary(max_size=3), st.binary(max_size=3))
def test_sortable_text_sorts_as_the_text_and_is_read_back(one, other, after, after_other):
    assert text_of(sortable(one)) == one
    if one != other:
        by_text = one.encode() < other.encode()
        assert (sortable(one) + after < sortable(other) + after_other) == by_text


@given(INTERACTIONS, st.integers(0, 20), st.randoms())
def test_a_history_is_the_last_before_the_request_in_whatever_order_the_log_is(given, time, rng):
    def history(rows):
        made = (ENCODER.interaction(moment, item, {"rating": rating}) for moment, item, rating in rows)
        return ENCODER.history(made, time, 3)

    found = history(given)
    expected = sorted((moment, item.encode()) for moment, item, _ in given if moment < time)[-3:]
    assert [(int.from_bytes(each[:8], "big"), ENCODER.past_item(each).encode()) for each in found] == expected
    shuffled = list(given)
    rng.shuffle(shuffled)
    assert history(shuffled) == found


def test_the_context_comes_before_the_clock_and_the_clock_before_the_user():
    user = {"age": 41, "request_hour": "3", "user_id": "another"}
    assert ENCODER.encode(_list(), user).context_categorical == [(b"u",), (b"2",)]
    given = ENCODER.encode(_list(context={"request_hour": 5, "age": 7, "user_id": "x"}), user)
    assert given.context_categorical == [(b"u",), (b"5",)]
    assert given.context_dense == [7.0]


def test_a_candidates_own_features_come_before_its_items():
    own = {"item_id": "a", "initial_score": 2, "features": {"price": 9, "genres": None}}
    found = ENCODER.encode(_list(candidates=[own, {"item_id": "b", "features": {"genres": "war"}}]))
    assert found.categorical == [((b"a",), (b"war", b"drama")), ((b"b",), (b"war", b""))]
    assert found.dense[0] == (9, 2.0) and all(map(math.isnan, found.dense[1]))
    assert found.unknown_items == 1


def test_a_list_without_history_has_empty_columns():
    assert ENCODER.encode(_list())[5:6] == ([[], []],)


@given(st.lists(TEXT.filter(bool), min_size=1, max_size=30, unique=True), INTERACTIONS, st.integers(0, 2**40))
def test_the_official_messages_read_what_is_serialized(items, past, time):
    candidates = [{"item_id": item, "initial_score": number} for number, item in enumerate(items)]
    history = [ENCODER.interaction(moment, item, {"rating": rating}) for moment, item, rating in past]
    values = ENCODER.encode(_list(candidates=candidates, time=time), None, history)
    parsed = input_pb2.ExampleListWithContext.FromString(ListSerializer(DECLARATION)(values))
    context = parsed.context.features.feature
    assert context["request_time"].int64_list.value[:] == [time]
    assert context["history_item_id"].WhichOneof("kind") == "bytes_list"
    assert context["history_item_id"].bytes_list.value[:] == [item.encode() for _, item, _ in past[::-1]]
    assert context["history_age_seconds"].WhichOneof("kind") == "float_list"
    for rank, (item, example) in enumerate(zip(items, parsed.examples, strict=True)):
        feature = example.features.feature
        assert feature["item_id"].bytes_list.value[:] == [item.encode()]
        assert feature["initial_score"].float_list.value[:] == [rank]
        assert feature["initial_rank"].int64_list.value[:] == [rank]
        assert feature["shown_position"].int64_list.value[:] == [rank]
        assert feature["relevance"].float_list.value[:] == [0]


def test_the_values_of_a_list_are_a_plain_tuple():
    assert isinstance(ENCODER.encode(_list()), ListValues)


def test_what_is_remembered_goes_with_the_last_reference():
    """A worker makes an encoder for each shard: in a cycle, all their items would wait for the collector."""
    encoder, serializer = RecordEncoder(DECLARATION, ITEMS.get), ListSerializer(DECLARATION)
    serializer(encoder.encode(_list()))
    left = [weakref.ref(each) for each in (encoder, encoder.item, serializer, serializer._strings)]
    gc.disable()
    try:
        del encoder, serializer
        assert [each() for each in left] == [None] * 4
    finally:
        gc.enable()
