"""The mathematics of training: pure functions of tensors and masks, one idea a module.

The classes are the same as Keras losses, for models of one's own.

`where` is bool, true where an entry counts: false at padding and, for what is learnt of labels, at
candidates that were not shown. Labels are float32 [batch, n], graded, 0 is irrelevant. A *slot* is a place
in a list, counted from 0; K is the block size.
"""

from psad_tf.losses.discount import discount
from psad_tf.losses.distillation import distillation_loss
from psad_tf.losses.gains import gains
from psad_tf.losses.ideal_list import ideal_order, slot_availability, slot_targets
from psad_tf.losses.keras_losses import ListwiseLoss, PlackettLuceLoss, PointwiseLoss, ShownListLoss
from psad_tf.losses.listwise import listwise_loss
from psad_tf.losses.plackett_luce import plackett_luce_loss
from psad_tf.losses.pointwise import pointwise_loss
from psad_tf.losses.ramp import ramp
from psad_tf.losses.reduction import mean, mean_of_lists, over_replicas
from psad_tf.losses.shown_list import shown_list_loss, shown_order
from psad_tf.losses.slot_cross_entropy import slot_cross_entropy
from psad_tf.losses.soft_relevance import soft_relevance
from psad_tf.losses.unlikelihood import unlikelihood

__all__ = [
    "ListwiseLoss",
    "PlackettLuceLoss",
    "PointwiseLoss",
    "ShownListLoss",
    "discount",
    "distillation_loss",
    "gains",
    "ideal_order",
    "listwise_loss",
    "mean",
    "mean_of_lists",
    "over_replicas",
    "plackett_luce_loss",
    "pointwise_loss",
    "ramp",
    "shown_list_loss",
    "shown_order",
    "slot_availability",
    "slot_cross_entropy",
    "slot_targets",
    "soft_relevance",
    "unlikelihood",
]
