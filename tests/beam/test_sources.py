import bz2
import csv
import datetime
import gzip
import json
import struct

import fastavro
import pyarrow
import pyarrow.parquet
import pytest

import psad_tf.beam.sources as sources
from psad_tf.beam.columns import Columns
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.beam.sources import RawInputs, find_ranges, read_range
from psad_tf.data.records import RecordError
from psad_tf.errors import InputError
from tests.beam import logs
from tests.beam.logs import DECLARATION

OPTIONS = PreprocessOptions(num_shards=1, latest_time=logs.START * 2, max_dropped=1.0)


def _flat(data):
    """Every kind of record as rows of plain columns."""
    impressions = [
        {
            "request_id": each["request_id"],
            "user_id": each["user_id"],
            "time": each["time"],
            "position": position,
            "item_id": candidate["item_id"],
            "initial_score": candidate["initial_score"],
            "context.device": each["context"]["device"],
            "feedback.rating": candidate["feedback"]["rating"],
            "features.price": candidate["features"]["price"],
            "features.badge": candidate["features"].get("badge"),
        }
        for each in data["impressions"]
        for position, candidate in enumerate(each["candidates"])
    ]
    interactions = [
        {
            **{key: row[key] for key in ("user_id", "item_id", "time")},
            "feedback.rating": row["feedback"]["rating"],
        }
        for row in data["interactions"]
    ]
    return {**data, "impressions": impressions, "interactions": interactions}


def _write_csv(path, rows):
    with gzip.open(path.with_suffix(".csv.gz"), "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "|".join(v) if isinstance(v, list) else v for key, v in row.items()})


def _write_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))


def _write_nested_avro(path, kind, rows):
    strings = {"type": "array", "items": "string"}
    numbers = {"type": "map", "values": "double"}
    badge = {"name": "badge", "type": ["null", "string"], "default": None}
    price = {"name": "price", "type": "double"}
    features = {"type": "record", "name": "features", "fields": [price, badge]}
    context = {"type": "record", "name": "context", "fields": [{"name": "device", "type": "string"}]}
    candidate = {
        "type": "record",
        "name": "candidate",
        "fields": [
            {"name": "item_id", "type": "string"},
            {"name": "initial_score", "type": "double"},
            {"name": "feedback", "type": numbers},
            {"name": "features", "type": features},
        ],
    }
    types = {
        "time": "long", "age": "double", "year": "double", "genres": strings, "feedback": numbers,
        "context": context, "candidates": {"type": "array", "items": candidate},
    }  # fmt: skip
    fields = [{"name": name, "type": types.get(name, "string")} for name in rows[0]]
    schema = fastavro.parse_schema({"type": "record", "name": kind, "fields": fields})
    with open(path.with_suffix(".avro"), "wb") as file:
        fastavro.writer(file, schema, rows)


@pytest.fixture(scope="module")
def data():
    return logs.records(lists=20)


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    preprocess(logs.write_folder(folder / "raw", data), folder / "lists", DECLARATION, options=OPTIONS)
    return logs.digests(folder / "lists")


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["csv", "parquet", "avro"])
def test_every_format_gives_the_lists_that_json_lines_give(data, expected, tmp_path, file_format):
    raw = tmp_path / "raw"
    raw.mkdir()
    for kind, rows in (data if file_format == "avro" else _flat(data)).items():
        if file_format == "csv":
            _write_csv(raw / kind, rows)
        elif file_format == "parquet":
            _write_parquet(raw / kind, rows)
        else:
            _write_nested_avro(raw / kind, kind, rows)
    preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert logs.digests(tmp_path / "lists") == expected


def test_every_line_is_read_once_however_the_file_is_cut(tmp_path, monkeypatch):
    lines = [json.dumps({"n": number, "pad": "é" * (number % 50)}) for number in range(200)]
    path = tmp_path / "users.jsonl"
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    for size in (1, 7, 64, 1000, 10**6):
        monkeypatch.setattr(sources, "RANGE_BYTES", size)
        ranges = find_ranges(RawInputs(impressions=(str(path),)))
        found = [record for each in ranges for record in read_range(each)]
        assert [record.data["n"] for record in found] == list(range(200)), size
        raw = path.read_bytes()
        assert all(json.loads(raw[r.place :].split(b"\n")[0]) == r.data for r in found[:50])


def test_a_last_line_without_an_end_is_a_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a":1}\n{"a":2}')
    (whole,) = find_ranges(RawInputs(impressions=(str(tmp_path / "a.jsonl"),)))
    assert [record.data["a"] for record in read_range(whole)] == [1, 2]


def test_several_globs_are_read_together_and_a_file_of_two_globs_once(tmp_path):
    for name in ("a1.jsonl", "a2.jsonl", "b1.jsonl.gz"):
        text = json.dumps({"name": name}).encode()
        (tmp_path / name).write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
    patterns = tuple(str(tmp_path / pattern) for pattern in ("a*.jsonl", "b*", "*2.jsonl"))
    found = [record.data["name"] for each in find_ranges(RawInputs(patterns)) for record in read_range(each)]
    assert sorted(found) == ["a1.jsonl", "a2.jsonl", "b1.jsonl.gz"]


def test_a_folders_files_are_told_by_their_names(tmp_path):
    for name in (
        "impressions-001.jsonl",
        "impressions-002.csv",
        "interactions.avro",
        "usersX.jsonl",
    ):
        (tmp_path / name).write_text("x")
    found = RawInputs.from_folder(tmp_path)
    assert [path.rsplit("/")[-1] for path in found.impressions] == [
        "impressions-001.jsonl",
        "impressions-002.csv",
    ]
    assert (len(found.interactions), found.users, found.items) == (1, (), ())
    (tmp_path / "items_of_old.txt").write_text("x")
    with pytest.raises(InputError, match=r"items_of_old\.txt: the format is not known"):
        RawInputs.from_folder(tmp_path)


@pytest.mark.parametrize("kind", ["impressions", "interactions"])
def test_a_folder_without_impressions_or_interactions_is_refused(tmp_path, kind):
    logs.write_folder(tmp_path, logs.records(lists=3))
    (tmp_path / f"{kind}.jsonl").unlink()
    with pytest.raises(InputError, match=f"{kind}.jsonl: no such file"):
        RawInputs.from_folder(tmp_path)


def test_what_is_missing_or_of_no_known_format_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        RawInputs.from_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"x\*.jsonl: no such file \(impressions\)"):
        find_ranges(RawInputs((str(tmp_path / "x*.jsonl"),)))
    (tmp_path / "log.xml").write_text("")
    with pytest.raises(InputError, match=r"log\.xml: the format is not known"):
        find_ranges(RawInputs((str(tmp_path / "log.xml"),)))


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("log.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 5000, mtime=0)),
        ("log.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 5000, mtime=0)),
    ],
    ids=["jsonl", "csv"],
)
def test_a_cut_gzip_file_is_an_error_that_names_it(tmp_path, name, whole):
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2])
    (each,) = find_ranges(RawInputs((str(path),)))
    with pytest.raises(InputError, match=f"{name}: the file is cut short or damaged"):
        list(read_range(each))


@pytest.mark.parametrize("end", ["parquet", "avro"])
def test_a_cut_parquet_or_avro_file_is_an_error_that_names_it(tmp_path, end):
    rows = [{"user_id": f"user-{number}"} for number in range(5000)]
    if end == "parquet":
        _write_parquet(tmp_path / "users", rows)
    else:
        _write_nested_avro(tmp_path / "users", "users", rows)
    path = tmp_path / f"users.{end}"
    path.write_bytes(path.read_bytes()[:-100])
    (each,) = find_ranges(RawInputs((str(path),)))
    with pytest.raises(InputError, match=rf"users\.{end}: cannot be read as (Parquet|Avro)"):
        list(read_range(each))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut to nothing.jsonl.gz", b""),
        ("garbage after the end.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0) + b"garbage"),
        ("cut to nothing.jsonl.bz2", b""),
        ("cut.csv.bz2", bz2.compress(b"a,b\n" * 5000)[:-9]),
        ("not bzip2.jsonl.bz2", b"BZh9 this is not what bzip2 writes"),
        ("cut to nothing.parquet", b""),
        ("cut to nothing.avro", b""),
        ("text.parquet", b"PAR1 so to speak"),
        ("text.avro", b"Obj"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (each,) = find_ranges(RawInputs((str(tmp_path / name),)))
    with pytest.raises(InputError, match=f"{name}: (the file is cut short|cannot be read as)") as caught:
        list(read_range(each))
    assert "\n" not in str(caught.value)


def test_a_parquet_id_that_is_not_utf8_is_an_error_that_names_the_file(tmp_path):
    offsets = pyarrow.py_buffer(struct.pack("<2i", 0, 2))
    ids = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, pyarrow.py_buffer(b"\xff\xfe")])
    pyarrow.parquet.write_table(pyarrow.table({"user_id": ids}), tmp_path / "users.parquet")
    (each,) = find_ranges(RawInputs((str(tmp_path / "users.parquet"),)))
    with pytest.raises(InputError, match=r"users\.parquet: cannot be read as Parquet \('utf-8' codec"):
        list(read_range(each))


def test_two_columns_of_one_name_are_an_error(tmp_path):
    (tmp_path / "users.csv").write_text("user_id,age,age\nu,1,2\n")
    columns = [pyarrow.array(["u"]), pyarrow.array([1]), pyarrow.array([2])]
    table = pyarrow.Table.from_arrays(columns, names=["user_id", "age", "age"])
    pyarrow.parquet.write_table(table, tmp_path / "users.parquet")
    for name in ("users.csv", "users.parquet"):
        (each,) = find_ranges(RawInputs((str(tmp_path / name),)))
        with pytest.raises(InputError, match=rf"{name}: 2 columns are called 'age'"):
            list(read_range(each))


def test_a_byte_order_mark_is_not_part_of_the_first_record(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a":1}\r\n{"a":2}\r\n', encoding="utf-8-sig", newline="")
    (tmp_path / "b.csv").write_text("a\r\n1\r\n", encoding="utf-8-sig", newline="")
    ranges = find_ranges(RawInputs((f"{tmp_path}/a.jsonl", f"{tmp_path}/b.csv")))
    assert [record.data for each in ranges for record in read_range(each)] == [{"a": 1}, {"a": 2}, {"a": "1"}]


def test_a_byte_order_mark_before_a_quoted_header_hides_no_column(tmp_path):
    (tmp_path / "a.csv").write_text('"request_id","n"\r\n"r","1"\r\n', encoding="utf-8-sig", newline="")
    (each,) = find_ranges(RawInputs((f"{tmp_path}/a.csv",)))
    assert [record.data for record in read_range(each)] == [{"request_id": "r", "n": "1"}]


@pytest.mark.parametrize("row", ['"open,2', '"o"pen,2'])
def test_a_quote_that_is_not_closed_is_an_error_that_names_the_line(tmp_path, row):
    (tmp_path / "a.csv").write_text(f'a,b\n"x\ny",2\n{row}\n3,4\n5,6\n')
    (each,) = find_ranges(RawInputs((f"{tmp_path}/a.csv",)))
    with pytest.raises(InputError, match=r"a\.csv:4: not CSV in the row that starts there"):
        list(read_range(each))


def test_endings_are_known_in_capitals_too(tmp_path):
    (tmp_path / "LOG.JSONL.GZ").write_bytes(gzip.compress(b'{"a": 1}\n'))
    (each,) = find_ranges(RawInputs((f"{tmp_path}/LOG*",)))
    assert [record.data for record in read_range(each)] == [{"a": 1}]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("2026-01", "2026-02"):
        (tmp_path / "logs" / folder).mkdir(parents=True)
        (tmp_path / "logs" / folder / "part-0.jsonl").write_text("{}\n")
    patterns = (f"{tmp_path}/logs/*/part-*.jsonl",)
    assert [each.name for each in find_ranges(RawInputs(patterns))] == [
        "2026-01/part-0.jsonl", "2026-02/part-0.jsonl",
    ]  # fmt: skip
    (alone,) = find_ranges(RawInputs((f"{tmp_path}/logs/2026-01/*",)))
    assert alone.name == "part-0.jsonl"


def test_csv_says_which_rows_cannot_be_read(tmp_path):
    path = tmp_path / "users.csv"
    path.write_bytes("user_id,age,genres\nu1,3,\n\nu2\nu\xff,4,\n".encode("latin-1"))
    (each,) = find_ranges(RawInputs((str(path),)))
    assert [record.error and record.error.reason for record in read_range(each)] == [
        None, "wrong_columns", "not_utf8",
    ]  # fmt: skip


def test_csv_cells_are_read_as_the_declaration_wants_them():
    columns = Columns("items", DECLARATION, text=True)
    assert columns({"item_id": "7", "genres": "war|drama", "year": "1999", "price": "", "other": "1"}) == {
        "item_id": "7", "genres": ["war", "drama"], "year": 1999.0, "price": None, "other": "1",
    }  # fmt: skip
    for wrong in ("old", "1_999", "19 99"):
        with pytest.raises(RecordError, match=f"year: expected a number, got '{wrong}'"):
            columns({"item_id": "7", "year": wrong})
    times = Columns("interactions", DECLARATION, text=True)
    assert [times({"time": cell})["time"] for cell in ("1600000000", "1600000000.0", "1.6e9")] == [
        1600000000
    ] * 3
    for cell in (
        "2024-01-05T10:00:00Z",
        "1600000000.5",
        "1_600",
        "nan",
        "inf",
    ):  # text; of another form, perhaps
        assert times({"time": cell}) == {"time": cell}


def test_timestamps_bytes_and_maps_become_json_data():
    columns = Columns("interactions", DECLARATION, text=False)
    moment = datetime.datetime(2020, 9, 13, 12, 26, 40)
    assert columns({"user_id": b"u", "time": moment, "feedback": [("rating", 3.0)]}) == {
        "user_id": "u", "time": 1_600_000_000, "feedback": {"rating": 3.0},
    }  # fmt: skip
    with pytest.raises(RecordError, match="not_utf8"):
        columns({"user_id": b"\xff"})
