"""Rerankers that PSAD is compared with, on the same encoded lists.

Neural ones derive from `Baseline` and are trained by `train_baseline`; LambdaMART (`lambdamart.py`) is
LightGBM's and needs that package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from psad_tf.baselines.base import Baseline
from psad_tf.baselines.dlcm import DLCM
from psad_tf.baselines.nar4rec import NAR4Rec
from psad_tf.baselines.pointwise import DebiasedPointwiseDNN, PointwiseDNN
from psad_tf.baselines.prm import PRM
from psad_tf.baselines.seq2slate import Seq2Slate
from psad_tf.baselines.setrank import SetRank
from psad_tf.config import TrainConfig
from psad_tf.features import FeatureDeclaration

NEURAL_BASELINES: dict[str, Callable[[FeatureDeclaration, Mapping[str, int], TrainConfig], Baseline]] = {
    "pointwise": PointwiseDNN,
    "pointwise_debiased": DebiasedPointwiseDNN,
    "dlcm": DLCM,
    "prm": PRM,
    "setrank": SetRank,
    "seq2slate": Seq2Slate,
    "nar4rec": NAR4Rec,
}
