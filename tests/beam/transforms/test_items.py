import orjson

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.transforms.check import to_json
from psad_tf.beam.transforms.items import SHIPPED, JoinItems, read_item
from tests.beam import logs
from tests.beam.logs import DECLARATION


def _joined(folder, rows, needed=()):
    keyed = [(row["item_id"].encode(), to_json([row, f"items:{n}"])) for n, row in enumerate(rows)]
    asked = [(item.encode(), shard) for item, shard in needed]
    return logs.outputs(JoinItems(DECLARATION, PreprocessOptions()), folder, (keyed, asked))


def test_an_item_keeps_its_declared_attributes(tmp_path):
    rows = [{"item_id": f"и-{number}", "year": number, "title": "not declared"} for number in range(20)]
    found = _joined(tmp_path, [*rows, {"item_id": "bare", "year": None}])
    items = {item: orjson.loads(attributes) for item, attributes in found.elements["items"]}
    assert items == {**{f"и-{number}": {"year": number} for number in range(20)}, "bare": {}}
    assert found.counts == {"items/kept": 21}


def test_an_items_second_row_is_a_dead_letter(tmp_path):
    found = _joined(tmp_path, [{"item_id": "a", "year": 2}, {"item_id": "a", "year": 1}, {"item_id": "b"}])
    assert dict(found.elements["items"]) == {"a": b'{"year":1}', "b": b"{}"}
    assert found.counts == {"items/kept": 2, "items/dropped/duplicate_item_row": 1}


def test_items_are_shipped_to_the_shards_that_need_them_once(tmp_path):
    rows = [{"item_id": item, "year": 7} for item in ("a", "a\0{", "unwanted")]
    needed = [("a", 0), ("a\0{", 1), ("a", 1), ("a", 0), ("unknown", 0)]
    shipped = _joined(tmp_path, rows, needed).elements[SHIPPED]
    assert sorted((shard, *read_item(value)) for shard, value in shipped) == [
        (0, "a", b'{"year":7}'), (1, "a", b'{"year":7}'), (1, "a\0{", b'{"year":7}'),
    ]  # fmt: skip
