"""The data view: how TFX's readers see an ExampleListWithContext.

TFX reads protos other than tf.Example through a *data view*, a SavedModel from serialized records to tensors
that lies with the data. This one has what model analysis needs beside the record itself: the graded labels
and the context features to slice by. The model gets the record whole, through its `rerank_examples`.
"""

from __future__ import annotations

import tensorflow as tf
from tfx_bsl.coders import tf_graph_record_decoder

from psad_tf.data.encoder import shown_slots
from psad_tf.data.parsing import parse_lists
from psad_tf.features import ITEM_ID, RELEVANCE, SHOWN_POSITION, FeatureDeclaration
from psad_tf.tfx_pipeline.list_metrics import PADDING_LABEL


class ListDecoder(tf_graph_record_decoder.TFGraphRecordDecoder):
    """Serialized lists -> `relevance` and the categorical context features.

    Args:
        declaration: The features.
    """

    def __init__(self, declaration: FeatureDeclaration) -> None:
        self._declaration = declaration

    def decode_record(self, records: tf.Tensor) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Decodes a batch.

        Args:
            records: string [batch].

        Returns:
            `relevance` float32 [batch, (candidates)], ragged, -1 where a candidate was not shown; context
            features string [batch, width].
        """
        raw = parse_lists(records, self._declaration)
        mask = raw[ITEM_ID][..., 0] != ""
        count = tf.reduce_sum(tf.cast(mask, tf.int64), axis=1)
        shown = shown_slots(raw[SHOWN_POSITION], mask) >= 0
        relevance = tf.where(shown, raw[RELEVANCE], PADDING_LABEL)
        names = [feature.name for feature in self._declaration.context_categorical]
        return {
            RELEVANCE: tf.RaggedTensor.from_tensor(relevance, count),
            **{name: raw[name] for name in names},
        }


def write_data_view(declaration: FeatureDeclaration, folder: str) -> None:
    """Saves the data view of a declaration."""
    tf_graph_record_decoder.save_decoder(ListDecoder(declaration), folder)
