"""Everything `create_pipeline` may be told: frozen, checked once, passed whole."""

from __future__ import annotations

import dataclasses
import os
import re

from psad_tf.beam.options import PreprocessOptions
from psad_tf.config import TrainConfig
from psad_tf.errors import InputError
from psad_tf.features import FeatureDeclaration
from psad_tf.tfx_pipeline.rules import BlessingRules, DataRules

RUN_FN = "psad_tf.tfx_pipeline.trainer.run_fn"
# Keys of what the Trainer hands to it.
TRAIN, MODEL_NAME, CODE = "train", "model_name", "code"
# `DirectRunner` would first try to download another runner; and TFX packs its own sources for the workers of
# every job, unless an image is named that has them. Workers in this process need neither.
LOCAL_BEAM = ("--runner=FnApiRunner", "--sdk_container_image=unused")


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """One pipeline.

    Args:
        input_base: Folder of the raw logs.
        pipeline_root: Folder of the artifacts. Training reads and writes plain files, so it must be a path of
            the file system (a mounted bucket will do).
        serving_base: Folder of served models; versions are pushed to `<serving_base>/<model_name>/<version>`.
        metadata_path: The SQLite file of the metadata store.
        declaration: The features.
        name: Name of the pipeline: runs under one name share cache and baseline.
        model_name: Name under which the model is served.
        input_pattern: Where under `input_base` the raw data folder's files are: `*` for one folder,
            `span-{SPAN}/*` or `span-{SPAN}/version-{VERSION}/*` for a folder a span, of which the latest is
            taken. Dates are spans too: `{YYYY}-{MM}-{DD}/*`.
        window: Spans whose impressions and interactions are taken, the latest and those just before it;
            users and items are the latest's. Spans that are not there are passed over.
        preprocess: Options of the Beam job. Without a `latest_time` that is the moment the job starts.
        train: Configuration of training.
        data_rules: Rules of validation beside the declaration's own.
        validated_share: Share of the lists, drawn by request id, whose candidates are validated.
        schema_file: A curated TFMD schema of the candidates, in place of the declaration's and the rules'.
        blessing: What a model must reach.
        slices: Context features by which the metrics are sliced, a user group a value.
        infra_image: Docker image of TensorFlow Serving to load the candidate in, in place of the embedded
            server; `tensorflow/serving:2.15.1` for instance.
        max_latency_ms: The infra check's bound on the median latency of a warm-up request; 0 sets none.
        run_fn: Python path of the function that trains.
        enable_cache: Take the outputs of an earlier run where inputs, settings and code are the same.
        beam_args: Options of Beam for every component that runs on it.
    """

    input_base: str
    pipeline_root: str
    serving_base: str
    metadata_path: str
    declaration: FeatureDeclaration
    name: str = "psad"
    model_name: str = "psad"
    input_pattern: str = "*"
    window: int = 1
    preprocess: PreprocessOptions = dataclasses.field(default_factory=PreprocessOptions)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    data_rules: DataRules = dataclasses.field(default_factory=DataRules)
    validated_share: float = 1.0
    schema_file: str | None = None
    blessing: BlessingRules = dataclasses.field(default_factory=BlessingRules)
    slices: tuple[str, ...] = ()
    infra_image: str | None = None
    max_latency_ms: float = 0.0
    run_fn: str = RUN_FN
    enable_cache: bool = True
    beam_args: tuple[str, ...] = LOCAL_BEAM

    def __post_init__(self) -> None:
        for field in ("name", "model_name"):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", getattr(self, field)):
                raise InputError(f"{field} {getattr(self, field)!r}: use letters, digits, '_' and '-'")
        if os.path.basename(self.input_pattern) != "*" or os.path.isabs(self.input_pattern):
            raise InputError(
                f"input_pattern {self.input_pattern!r}: must be relative and end in '*', the files of a raw "
                "data folder, as in 'span-{SPAN}/*'"
            )
        if self.window < 1:
            raise InputError(f"window: must be 1 or more, got {self.window}")
        if not re.search(r"\{(SPAN|YYYY)", self.input_pattern) and (self.window > 1 or self.data_rules.drift):
            raise InputError(
                "a window and drift rules need spans: give an input pattern such as 'span-{SPAN}/*' "
                f"in place of {self.input_pattern!r}"
            )
        if not 0.0 < self.validated_share <= 1.0:
            raise InputError(f"validated_share: must be in (0, 1], got {self.validated_share}")
        if self.schema_file is not None and self.data_rules != DataRules():
            raise InputError(
                "schema_file and data_rules: give one, since the schema file holds its own rules"
            )
        if self.schema_file is not None and not os.path.isfile(self.schema_file):
            raise InputError(f"{self.schema_file}: no such file")
        known = [feature.name for feature in self.declaration.context_categorical]
        for name in self.slices:
            if name not in known:
                raise InputError(f"slice {name!r}: is no categorical context feature ({', '.join(known)})")
        self.data_rules.check(self.declaration)

    @property
    def push_folder(self) -> str:
        """The folder that TensorFlow Serving watches."""
        return os.path.join(os.path.abspath(self.serving_base), self.model_name)
