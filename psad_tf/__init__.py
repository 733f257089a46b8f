"""PSAD: personalized semi-autoregressive reranking with online knowledge distillation, on TensorFlow.

    import psad_tf as psad

    model = psad.PSAD(declaration, encoder.vocabulary_sizes, slots=6, block_size=3)
    model.compile(optimizer="adam", jit_compile=True)
    model.fit(train, validation_data=valid)

Names are imported when they are first used, so that `import psad_tf` takes no time. Everything that
`dir(psad_tf)` does not list is private and may change without notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psad_tf.beam.pipeline import preprocess as preprocess
    from psad_tf.config import ModelConfig as ModelConfig
    from psad_tf.config import TrainConfig as TrainConfig
    from psad_tf.config import load_train_config as load_train_config
    from psad_tf.data.batches import ListDataset as ListDataset
    from psad_tf.data.encoder import FeatureEncoder as FeatureEncoder
    from psad_tf.data.list_folder import load_encoder as load_encoder
    from psad_tf.errors import InputError as InputError
    from psad_tf.evaluation.evaluate import evaluate_run as evaluate_run
    from psad_tf.export.saved_model import export_saved_model as export_saved_model
    from psad_tf.features import FeatureDeclaration as FeatureDeclaration
    from psad_tf.features import load_declaration as load_declaration
    from psad_tf.models.psad import PSAD as PSAD
    from psad_tf.models.student import Reranker as Reranker
    from psad_tf.training.run_folder import load_psad as load_psad
    from psad_tf.training.run_folder import load_reranker as load_reranker
    from psad_tf.training.trainer import train as train

__version__ = "0.2.0.dev0"

# Public name -> module and name there; a module alone is a subpackage.
_PUBLIC = {
    "PSAD": "psad_tf.models.psad:PSAD",
    "Reranker": "psad_tf.models.student:Reranker",
    "FeatureDeclaration": "psad_tf.features:FeatureDeclaration",
    "FeatureEncoder": "psad_tf.data.encoder:FeatureEncoder",
    "InputError": "psad_tf.errors:InputError",
    "ListDataset": "psad_tf.data.batches:ListDataset",
    "ModelConfig": "psad_tf.config:ModelConfig",
    "TrainConfig": "psad_tf.config:TrainConfig",
    "evaluate_run": "psad_tf.evaluation.evaluate:evaluate_run",
    "export_saved_model": "psad_tf.export.saved_model:export_saved_model",
    "load_declaration": "psad_tf.features:load_declaration",
    "load_encoder": "psad_tf.data.list_folder:load_encoder",
    "load_psad": "psad_tf.training.run_folder:load_psad",
    "load_reranker": "psad_tf.training.run_folder:load_reranker",
    "load_train_config": "psad_tf.config:load_train_config",
    "preprocess": "psad_tf.beam.pipeline:preprocess",
    "train": "psad_tf.training.trainer:train",
    "baselines": "psad_tf.baselines",
    "data": "psad_tf.data",
    "datasets": "psad_tf.datasets",
    "decoding": "psad_tf.decoding",
    "export": "psad_tf.export",
    "layers": "psad_tf.layers",
    "losses": "psad_tf.losses",
    "metrics": "psad_tf.metrics",
    "serving": "psad_tf.serving",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'psad_tf' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    found = importlib.import_module(module)
    globals()[name] = value = getattr(found, attribute) if attribute else found
    return value


def __dir__() -> list[str]:
    return list(__all__)
