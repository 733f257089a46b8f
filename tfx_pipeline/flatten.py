"""Lists as flat tf.Examples, a candidate each, for TensorFlow Data Validation.

TFDV computes statistics of tf.Examples. It cannot look into an ExampleListWithContext, a proto of nested
serialized Examples, and a schema has no words for "feature of each of n candidates". So each candidate
becomes one Example: its own features and its list's context and history beside them, as the TFMD schema
describes them.

Missing values are left out here (they are "" and NaN in the lists, whose tensors need a value), so that a
missing feature counts as missing in the statistics, and presence rules mean what they say. So are the labels
of candidates that were not shown, which have none.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes
from tensorflow_serving.apis import input_pb2

from psad_tf.features import NEGATIVE, RELEVANCE, REQUEST_ID, SHOWN_POSITION

_HASHED = 1 << 20


class FlattenLists(beam.PTransform):
    """List files -> files of flat Examples.

    Args:
        files: Pattern of gzip TFRecords of ExampleListWithContext.
        prefix: Path before `-00000-of-0000S.gz` of the files written.
        share: Share of the lists taken, by a hash of the request id, so that the same lists are taken again.
    """

    def __init__(self, files: str, prefix: str, share: float = 1.0) -> None:
        super().__init__()
        self._files = files
        self._prefix = prefix
        self._share = share

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            begin
            | "Read" >> beam.io.ReadFromTFRecord(self._files, compression_type=CompressionTypes.GZIP)
            | "Flatten" >> beam.FlatMap(flat_examples, share=self._share).with_output_types(bytes)
            | "Write"
            >> beam.io.WriteToTFRecord(
                self._prefix, file_name_suffix=".gz", compression_type=CompressionTypes.GZIP
            )
        )


def flat_examples(serialized: bytes, share: float = 1.0) -> Iterator[bytes]:
    """The candidates of one list as serialized tf.Examples; none where the list is not in the share."""
    lists = input_pb2.ExampleListWithContext.FromString(serialized)
    if share < 1.0:
        request_id = lists.context.features.feature[REQUEST_ID].bytes_list.value
        if zlib.crc32(b"".join(request_id)) % _HASHED >= share * _HASHED:
            return
    context = _present(lists.context)
    for candidate in lists.examples:
        example = _present(candidate)
        features = example.features.feature
        if SHOWN_POSITION in features and features[SHOWN_POSITION].int64_list.value[0] < 0:
            for label in (RELEVANCE, NEGATIVE):
                features.pop(label, None)
        example.MergeFrom(context)
        yield example.SerializeToString(deterministic=True)


def _present(example: tf.train.Example) -> tf.train.Example:
    """The Example without missing values, and without the features that then hold nothing."""
    present = tf.train.Example()
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            values = [value for value in feature.bytes_list.value if value]
        elif kind == "float_list":
            values = [value for value in feature.float_list.value if not math.isnan(value)]
        else:
            values = list(feature.int64_list.value)
        if values:
            getattr(present.features.feature[name], kind).value.extend(values)
    return present
