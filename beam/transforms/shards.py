"""Writes the lists of each shard as one gzip file of TFRecords."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psad_tf.beam.messages import Handler, Message, Step, of_topic, report
from psad_tf.beam.sorted_runs import merge_runs
from psad_tf.beam.transforms.histories import LISTS
from psad_tf.beam.writers import OutputFile, tfrecord
from psad_tf.features import SPLITS

SHARD_NAME = "{}/part-{:05d}-of-{:05d}.tfrecord.gz"


class WriteShards(Step):
    """Runs of encoded lists, by split and shard -> `<split>/part-i-of-n.tfrecord.gz`.

    The lists stand in the order of a hash of their request ids: the same bytes whatever the number of
    workers.

    Args:
        folder: The output folder.
        num_shards: Files a split.
        compression_level: 1 to 9.
    """

    def __init__(self, folder: str, num_shards: int, compression_level: int) -> None:
        super().__init__(_WriteShards(folder, num_shards, compression_level))


class _WriteShards(Handler):
    topics = (LISTS,)

    def __init__(self, folder: str, num_shards: int, compression_level: int) -> None:
        self._folder = folder
        self._num_shards = num_shards
        self._compression_level = compression_level

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        split, shard = divmod(partition, self._num_shards)
        name = SHARD_NAME.format(SPLITS[split], shard, self._num_shards)
        with OutputFile(self._folder, name, self._compression_level) as file:
            for _, data in merge_runs(of_topic(received, LISTS)):
                file.write(tfrecord(data))
        yield report("file", file.info())
