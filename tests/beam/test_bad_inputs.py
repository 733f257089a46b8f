"""Every kind of bad input, and what becomes of it: a dead letter with its reason, or one clear error."""

import copy
import gzip
import json
import math
import os
from collections import Counter

import fastavro
import pyarrow
import pyarrow.parquet
import pytest

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.beam.sources import RawInputs, find_ranges
from psad_tf.beam.transforms.read import ReadRecords
from psad_tf.errors import InputError
from tests.beam import logs
from tests.beam.logs import DECLARATION

pytestmark = pytest.mark.slow

NOW = logs.START + 10**6
OPTIONS = PreprocessOptions(num_shards=1, latest_time=NOW, min_candidates=2, max_dropped=1.0)


def _impression(**changes):
    data = logs.impression(900, 1, logs.START + 5, [1, 2, 3])
    for path, value in changes.items():
        part = data
        *parents, last = path.split("__")
        for key in parents:
            part = part[int(key) if key.isdigit() else key]
        if value is ...:
            del part[last]
        else:
            part[last] = value
    return data


def _line(text, **changes):
    """The JSON line of an impression with a part of its text replaced."""
    old, new = text
    line = json.dumps(_impression(**changes)).encode()
    assert old in line
    return line.replace(old, new)


MANY = [{"item_id": f"i{n}", "initial_score": 1.0} for n in range(10_000)]
BAD_IMPRESSIONS = [
    ("not JSON", b'{"request_id": ', "not_json"),
    ("not an object", b"[1, 2]", "not_an_object"),
    ("deeper than can be read", b"[" * 100_000, "not_json"),
    ("not UTF-8", _line((b"request-900", b"request-\xff\xfe")), "not_utf8"),
    ("half of a surrogate pair in an id", _line((b"request-900", b"r-\\ud800")), "not_utf8"),
    ("no request id", _impression(request_id=...), "missing_field"),
    ("request id is true", _impression(request_id=True), "wrong_type"),
    ("empty user id", _impression(user_id=""), "empty_id"),
    ("an id of a megabyte", _impression(user_id="u" * 10**6), "long_id"),
    ("no time", _impression(time=None), "missing_field"),
    ("time is text", _impression(time="yesterday"), "wrong_type"),
    ("time without a zone", _impression(time="2020-09-13T10:00:00"), "time_without_zone"),
    ("time is true", _impression(time=True), "wrong_type"),
    ("time in milliseconds", _impression(time=logs.START * 1000), "time_not_in_seconds"),
    ("time in the future", _impression(time=NOW + 1), "time_in_future"),
    ("time before 1970", _impression(time=-1), "negative_time"),
    ("no candidates", _impression(candidates=[]), "no_candidates"),
    ("candidates are missing", _impression(candidates=...), "missing_field"),
    ("candidates are an object", _impression(candidates={"item_id": "a"}), "wrong_type"),
    ("a candidate is text", _impression(candidates=["item-1", "item-2"]), "wrong_type"),
    ("too few candidates", _impression(candidates=MANY[:1]), "too_few_candidates"),
    ("10,000 candidates", _impression(candidates=MANY), "too_many_candidates"),
    ("an item twice", _impression(candidates__1__item_id="item-1"), "duplicate_item"),
    ("an item without id", _impression(candidates__1__item_id=None), "missing_field"),
    ("no initial score", _impression(candidates__1__initial_score=...), "missing_field"),
    ("initial score is text", _impression(candidates__1__initial_score="high"), "wrong_type"),
    ("initial score is infinite", _line((b"0.9375", b"Infinity")), "not_finite"),
    ("initial score is more than 32 bits hold", _line((b"0.9375", b"1e39")), "not_finite"),
    ("a feature is NaN", _impression(candidates__0__features__price=float("nan")), "not_finite"),
    ("a feature is infinite", _impression(candidates__0__features__price=float("-inf")), "not_finite"),
    ("a context feature is NaN", _impression(context__age=float("nan")), "not_finite"),
    ("feedback is infinite", _impression(candidates__0__feedback__rating=float("inf")), "not_finite"),
    ("a dense feature is text", _impression(candidates__0__features__price="cheap"), "wrong_type"),
    ("a dense context feature is a list", _impression(context__age=["3"]), "wrong_type"),
    ("a feature is an object", _impression(candidates__0__features__price={"eur": 3}), "wrong_type"),
    ("a list of numbers", _impression(candidates__0__features__genres=[1, 2]), "wrong_type"),
    ("feedback is text", _impression(candidates__0__feedback__rating="yes"), "wrong_type"),
    ("feedback is a list", _impression(candidates__0__feedback=[5]), "wrong_type"),
    ("a label for an item not shown", _impression(feedback={"i": {}}), "feedback_for_item_not_shown"),
    ("a slot twice", _impression(candidates__0__position=1, candidates__1__position=1), "duplicate_position"),
    ("a slot below 0", _impression(candidates__0__position=-1), "negative_position"),
    ("a slot beyond the list", _impression(candidates__0__position=64), "position_beyond_list"),
    ("a slot is a fraction", _impression(candidates__0__position=0.5), "wrong_type"),
    ("feedback for one in no slot", _impression(candidates__0__position=0), "feedback_for_item_not_shown"),
    ("an unknown split", _impression(split="dev"), "unknown_split"),
    ("a line break in a value", _impression(context__device="a\nb"), "line_break"),
    ("an item id is not UTF-8", _line((b'"item-2"', b'"item-\xe9"')), "not_utf8"),
    ("a user id cut in the middle of a letter", _line((b"user-1", b"\xd0\xbf\xd0")), "not_utf8"),
    ("a request id again", _impression(request_id="request-0"), "duplicate_request"),
]  # fmt: skip
BAD_OTHERS = [
    ("interactions", "no item", {"user_id": "user-1", "time": 5}, "missing_field"),
    ("interactions", "milliseconds", {"user_id": "u", "item_id": "i", "time": 10**12}, "time_not_in_seconds"),
    (
        "interactions",
        "NaN",
        b'{"user_id":"u","item_id":"i","time":5,"feedback":{"r":NaN}}',
        "not_finite",
    ),
    (
        "interactions",
        "infinite feedback",
        b'{"user_id":"u","item_id":"i","time":5,"feedback":{"r":-Infinity}}',
        "not_finite",
    ),
    ("interactions", "time is text", {"user_id": "u", "item_id": "i", "time": "5"}, "wrong_type"),
    ("interactions", "not UTF-8", b'{"user_id":"\xff","item_id":"i","time":5}', "not_utf8"),
    ("interactions", "a future", {"user_id": "u", "item_id": "i", "time": NOW + 1}, "time_in_future"),
    ("users", "no id", {"age": 3}, "missing_field"),
    ("users", "dense is text", {"user_id": "user-77", "age": "old"}, "wrong_type"),
    ("users", "again", {"user_id": "user-1", "age": 99}, "duplicate_user_row"),
    ("items", "an id of a fraction", {"item_id": 5.5}, "wrong_type"),
    ("items", "mixed schema", {"item_id": "item-88", "year": ["1999"]}, "wrong_type"),
    ("items", "again", {"item_id": "item-1", "the_year": 3000}, "duplicate_item_row"),
    ("items", "infinite", b'{"item_id": "item-89", "year": Infinity}', "not_finite"),
    ("items", "an object in an attribute", {"item_id": "item-87", "year": {"of": 1999}}, "wrong_type"),
    ("items", "not UTF-8", b'{"item_id": "\xc3\x28"}', "not_utf8"),
]
TABLE = [("impressions", *row) for row in BAD_IMPRESSIONS] + BAD_OTHERS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run over good records and every bad one of the table."""
    folder = tmp_path_factory.mktemp("bad")
    data = logs.records()
    for kind, _, record, _ in TABLE:
        data[kind] = [*data[kind], record]
    raw = logs.write_folder(folder / "raw", copy.deepcopy(data))
    manifest = preprocess(raw, folder / "lists", DECLARATION, options=OPTIONS)
    return manifest, logs.dead_letters(folder / "lists"), folder


@pytest.mark.parametrize(
    ("kind", "what", "record", "reason"), TABLE, ids=[f"{row[0]}: {row[1]}" for row in TABLE]
)
def test_a_bad_record_is_a_dead_letter_with_its_reason(made, kind, what, record, reason):
    _, letters, folder = made
    line = record if isinstance(record, bytes) else json.dumps(record).encode()
    place = (folder / "raw" / f"{kind}.jsonl").read_bytes().index(line + b"\n")
    found = [letter for letter in letters if letter["source"] == f"{kind}.jsonl:{place}"]
    if not found and reason.startswith("duplicate_") and reason.endswith("_row"):
        # Of two rows the first by its bytes is kept, wherever it stands.
        found = [letter for letter in letters if letter["reason"] == reason]
    (letter,) = found
    assert (letter["kind"], letter["reason"]) == (kind, reason)
    assert letter["detail"]


def test_a_dead_letter_holds_the_raw_record(made):
    _, letters, _ = made
    by_detail = {(letter["kind"], letter["detail"]): letter["record"] for letter in letters}
    assert by_detail["impressions", "time: expected whole seconds, got the text 'yesterday'"] == _impression(
        time="yesterday"
    )
    assert '{"request_id": ' in [letter["record"] for letter in letters]
    assert any("request-\\xff\\xfe" in str(letter["record"]) for letter in letters)


def test_the_counts_add_up(made):
    manifest, letters, _ = made
    counts = manifest["counts"]
    tables = {"impressions": counts, **{kind: counts[kind] for kind in ("interactions", "users", "items")}}
    reasons = Counter((letter["kind"], letter["reason"]) for letter in letters)
    for kind, table in tables.items():
        used = table["written"] if kind == "impressions" else table["kept"]
        assert table["read"] == used + sum(table["dropped"].values())
        assert table["dropped"] == {reason: n for (of, reason), n in sorted(reasons.items()) if of == kind}
    assert counts["written"] == sum(manifest["lists"].values()) == 40
    assert counts["read"] == 40 + len(BAD_IMPRESSIONS)


def test_good_records_are_not_harmed_by_bad_ones(made, tmp_path):
    raw = logs.write_folder(tmp_path / "raw", logs.records())
    preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    ours, theirs = logs.digests(made[2] / "lists"), logs.digests(tmp_path / "lists")
    assert {name: ours[name] for name in theirs} == theirs


def _lists_of(tmp_path, impressions, options=OPTIONS):
    data = logs.records()
    raw = logs.write_folder(tmp_path / "raw", {**data, "impressions": [*data["impressions"], *impressions]})
    manifest = preprocess(raw, tmp_path / "lists", DECLARATION, options=options)
    return manifest, logs.read_lists(tmp_path / "lists")


def test_unicode_ids_are_kept_to_the_letter(tmp_path):
    record = _impression(request_id="запрос 🙂", user_id="a\tb\u2028\x00", candidates__0__item_id="é\u0301|;")
    _, lists = _lists_of(tmp_path, [record])
    found = lists["запрос 🙂"]
    assert logs.values(found.context, "user_id") == ["a\tb\u2028\x00"]
    assert logs.values(found.examples[0], "item_id") == ["é\u0301|;"]
    assert "é\u0301|;" in (tmp_path / "lists/vocabularies/item_id.txt").read_bytes().decode().split("\n")


def test_long_lists_are_cut_where_that_is_asked_for(tmp_path):
    from dataclasses import replace

    record = _impression(candidates=MANY)
    manifest, lists = _lists_of(tmp_path, [record], replace(OPTIONS, long_lists="truncate"))
    assert len(lists["request-900"].examples) == DECLARATION.max_candidates
    assert manifest["counts"]["truncated"] == 1
    assert manifest["counts"]["dropped"] == {}


def test_a_lists_own_feedback_labels_its_candidates(tmp_path):
    record = _impression(feedback={"item-2": {"bought": 1}})
    _, lists = _lists_of(tmp_path, [record])
    relevance = [logs.values(each, "relevance")[0] for each in lists["request-900"].examples]
    assert relevance[1] == 3.0


BAD_COLUMNS = [
    ("NaN", {"feedback.rating": float("nan")}, "not_finite"),
    ("infinite", {"feedback.rating": float("inf")}, "not_finite"),
    ("milliseconds", {"time": logs.START * 1000}, "time_not_in_seconds"),
    ("a future", {"time": NOW + 1}, "time_in_future"),
    ("a fraction of a second", {"time": 5.5}, "wrong_type"),
    ("no item", {"item_id": None}, "missing_field"),
    ("an empty id", {"user_id": ""}, "empty_id"),
    ("bytes that are not UTF-8", {"user_id": b"user-\xff"}, "not_utf8"),
]


@pytest.mark.parametrize("file_format", ["csv", "parquet", "avro"])
@pytest.mark.parametrize(("what", "change", "reason"), BAD_COLUMNS, ids=[row[0] for row in BAD_COLUMNS])
def test_a_bad_row_of_columns_is_a_dead_letter_with_its_reason(tmp_path, file_format, what, change, reason):
    good = {"user_id": "user-1", "item_id": "item-1", "time": 5, "feedback.rating": 3.0}
    bad = {**good, **change}
    if file_format == "csv":
        cells = [value if isinstance(value, bytes) else str(value or "").encode() for value in bad.values()]
        (tmp_path / "log.csv").write_bytes(b"%s\n%s\n" % (",".join(bad).encode(), b",".join(cells)))
        reason = {"an empty id": "missing_field"}.get(what, reason)  # CSV cannot tell them apart
    elif file_format == "parquet":
        table = pyarrow.Table.from_pylist([bad])
        pyarrow.parquet.write_table(table, tmp_path / "log.parquet")
    else:
        names = {"user_id": "user_id", "item_id": "item_id", "time": "time", "feedback.rating": "feedback"}
        types = ["null", "string", "bytes", "long", "double", {"type": "map", "values": "double"}]
        fields = [{"name": name, "type": types} for name in names.values()]
        record = {name: bad[key] for key, name in names.items()}
        record["feedback"] = {"rating": bad["feedback.rating"]}
        schema = fastavro.parse_schema({"type": "record", "name": "row", "fields": fields})
        with open(tmp_path / "log.avro", "wb") as file:
            fastavro.writer(file, schema, [record])
    (each,) = find_ranges(RawInputs((), interactions=(f"{tmp_path}/log.{file_format}",)))
    found = logs.outputs(ReadRecords([each], DECLARATION, OPTIONS), tmp_path)
    assert found.counts == {"interactions/read": 1, f"interactions/dropped/{reason}": 1}
    (letter,) = found.letters
    assert (letter["reason"], letter["source"]) == (reason, f"log.{file_format}:0")
    assert "item_id" in letter["record"] or letter["record"][1] == "item-1"


def test_files_of_several_schemas_are_read_together_and_what_one_lacks_is_missing(tmp_path):
    raw = logs.write_folder(tmp_path / "raw", logs.records())
    older = [{"item_id": "item-90", "year": 1990}, {"item_id": "item-91", "year": None}]
    newer = [{"item_id": "item-92", "genres": ["war"], "weight_in_grams": 7}, {"item_id": "item-93"}]
    other = [{"item_id": "item-94", "year": "1999"}]
    for number, rows in enumerate((older, newer, other)):
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, raw / f"items-{number}.parquet")
    (raw / "items-3.csv").write_text("year,item_id\n1980,item-95\n")
    (raw / "items-4.csv").write_text("item_id,genres\nitem-96,war|drama\n")
    record = _impression(candidates=[{"item_id": f"item-{n}", "initial_score": 0} for n in range(90, 97)])
    with open(raw / "impressions.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
    manifest = preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert manifest["counts"]["items"]["dropped"] == {"wrong_type": 1}
    shown = logs.read_lists(tmp_path / "lists")["request-900"].examples
    assert [logs.values(each, "year")[0] for each in shown] == pytest.approx(
        [1990, math.nan, math.nan, math.nan, math.nan, 1980, math.nan], nan_ok=True
    )
    assert [logs.values(each, "genres") for each in shown[2::4]] == [["war", ""], ["war", "drama"]]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{}\n", b"\xef\xbb\xbf"])
def test_empty_impressions_are_an_error_and_leave_nothing(tmp_path, content):
    raw = logs.write_folder(tmp_path / "raw", logs.records(lists=3))
    (raw / "impressions.jsonl").write_bytes(content)
    with pytest.raises(
        InputError, match=r"no impression can be used \((the files are empty|1 missing_field)\)"
    ):
        preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert {path.name for path in tmp_path.iterdir()} - {"lists.dead_letters"} == {"raw"}


def test_empty_interactions_users_and_items_are_only_missing_values(tmp_path):
    data = logs.records()
    declaration = DECLARATION
    for number, each in enumerate(data["impressions"]):
        each["context"] |= {"age": 30, "segment": "a"}
        for candidate in each["candidates"]:
            candidate["features"] |= {"genres": ["war"], "year": 1990 + number, "badge": "new"}
    empty = {**data, "interactions": [], "users": [], "items": []}
    raw = logs.write_folder(tmp_path / "raw", empty)
    manifest = preprocess(raw, tmp_path / "lists", declaration, options=OPTIONS)
    assert manifest["joins"]["lists_without_history"] == manifest["counts"]["written"] == 40
    each = next(iter(logs.read_lists(tmp_path / "lists").values()))
    assert logs.values(each.context, "history_item_id") == []


def test_a_truncated_gzip_input_stops_the_job_with_its_name(tmp_path):
    raw = logs.write_folder(tmp_path / "raw", logs.records())
    whole = gzip.compress((raw / "impressions.jsonl").read_bytes())
    (raw / "more.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    inputs = RawInputs(
        (f"{raw}/impressions.jsonl", f"{raw}/more.jsonl.gz"), (f"{raw}/interactions.jsonl",),
        (f"{raw}/users.jsonl",), (f"{raw}/items.jsonl",),
    )  # fmt: skip
    with pytest.raises(
        InputError, match=r"^\S*more\.jsonl\.gz: the file is cut short or damaged \([^\n]*\)$"
    ):
        preprocess(inputs, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_of_several_damaged_files_the_error_tells_how_many(tmp_path):
    raw = logs.write_folder(tmp_path / "raw", logs.records(lists=3))
    for kind in ("impressions", "interactions", "items"):
        (raw / f"{kind}-2.jsonl.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"raw/impressions-2\.jsonl\.gz: .* \(and 2 more such files\)$"):
        preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("output", [".", "raw", "raw/.."])
def test_an_output_folder_that_holds_the_logs_or_anything_else_is_refused(tmp_path, output):
    raw = logs.write_folder(tmp_path / "raw", logs.records(lists=3))
    before = {path: path.read_bytes() for path in raw.iterdir()}
    with pytest.raises(InputError, match=r"holds '(raw|features\.json)', which would be removed"):
        preprocess(raw, tmp_path / output, DECLARATION, options=OPTIONS)
    assert {path: path.read_bytes() for path in raw.iterdir()} == before
    assert os.listdir(tmp_path) == ["raw"]


def test_an_output_folder_that_is_a_file_is_refused_and_kept(tmp_path):
    raw = logs.write_folder(tmp_path / "raw", logs.records(lists=3))
    (tmp_path / "lists").write_text("mine")
    with pytest.raises(InputError, match="lists: is a file; a folder is wanted"):
        preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert (tmp_path / "lists").read_text() == "mine"


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    raw = logs.write_folder(tmp_path / "raw", logs.records(lists=3))
    # The kernel's own device that is always full.
    monkeypatch.setattr("psad_tf.beam.output_file.create", lambda path: open("/dev/full", "wb"))
    with pytest.raises(InputError, match=r"lists\S*: the disk is full$"):
        preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    raw = logs.write_folder(tmp_path / "raw", logs.records(lists=3))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/lists: cannot be written"):
        preprocess(raw, tmp_path / "file" / "lists", DECLARATION, options=OPTIONS)
