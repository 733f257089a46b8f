import marshal

from psad_tf.beam.sorted_runs import RunWriter
from psad_tf.beam.transforms.items import ITEM_TABLE, BuildItemTable, ItemTable
from psad_tf.beam.transforms.read import ITEM_ROWS
from tests.beam import logs
from tests.beam.logs import DECLARATION


def _built(folder, rows):
    writer = RunWriter(str(folder), ITEM_ROWS, buffer_bytes=2000)
    for number, row in enumerate(rows):
        writer.add(0, row["item_id"].encode(), marshal.dumps((row, f"items:{number}"), 2))
    sent = [(ITEM_ROWS, 0, run) for _, run in writer.close()]
    return logs.through(BuildItemTable(str(folder), DECLARATION, 3), sent, folder)


def test_the_table_gives_each_items_declared_attributes_to_every_partition(tmp_path):
    rows = [{"item_id": f"и-{number}", "year": number, "title": "not declared"} for number in range(200)]
    found = _built(tmp_path, [*rows, {"item_id": "bare", "year": None}])
    assert sorted(partition for topic, partition, _ in found if topic == ITEM_TABLE) == [0, 1, 2]
    with ItemTable(logs.payloads(found, ITEM_TABLE)[0]) as table:
        assert table.attributes("и-7") == {"year": 7}
        assert table.attributes("bare") == {}
        assert table.attributes("nobody") is None
    assert logs.counts(found) == {"items/kept": 201}


def test_an_items_second_row_is_a_dead_letter(tmp_path):
    found = _built(tmp_path, [{"item_id": "a", "year": 2}, {"item_id": "a", "year": 1}, {"item_id": "b"}])
    assert logs.counts(found) == {"items/kept": 2, "items/dropped/duplicate_item_row": 1}


def test_without_item_rows_there_is_no_table(tmp_path):
    assert logs.through(
        BuildItemTable(str(tmp_path), DECLARATION, 3), [("other", 0, "passes")], tmp_path
    ) == [("other", 0, "passes")]
    with ItemTable(None) as table:
        assert table.attributes("a") is None
