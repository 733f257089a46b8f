"""Runs the pipeline in this process and says what each component did."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import sys
import time
from collections.abc import Iterator

import tfx.v1 as tfx
from absl import logging as absl_logging
from tfx.components.example_gen import utils
from tfx.proto import example_gen_pb2
from tfx.types import standard_component_specs

from psad_tf.errors import InputError
from psad_tf.tfx_pipeline.components.evaluator import REASON
from psad_tf.tfx_pipeline.components.list_example_gen import static_range
from psad_tf.tfx_pipeline.components.pusher import ALREADY_SERVED
from psad_tf.tfx_pipeline.evaluation import Verdict, read_verdict
from psad_tf.tfx_pipeline.metadata import Store
from psad_tf.tfx_pipeline.pipeline import create_pipeline
from psad_tf.tfx_pipeline.settings import PipelineSettings

LOG_FILE = "tfx.log"
_STEP = re.compile(r"Component (\S+) is (running|finished)\.")


@dataclasses.dataclass(frozen=True)
class PipelineRun:
    """What a run did.

    Attributes:
        run_id: Its name in the metadata store.
        states: `complete` or `cached` by component.
        verdict: What the Evaluator found.
        infra_reason: Why the candidate cannot be served, "" where it can.
        validation_reason: Why the validation lists forbid to serve it, "" where they do not.
        pushed: The version's folder that TensorFlow Serving finds, None where nothing was pushed.
        already_served: The served version that is the same model, so that it was not pushed again.
        lists: Folder of the lists.
        run_dir: The training run, None where a `run_fn` of one's own made none.
    """

    run_id: str
    states: dict[str, str]
    verdict: Verdict
    infra_reason: str
    validation_reason: str
    pushed: str | None
    already_served: str | None
    lists: str
    run_dir: str | None


def run_local(settings: PipelineSettings, span: int | None = None) -> PipelineRun:
    """Runs the pipeline with TFX's LocalDagRunner.

    Args:
        settings: The pipeline's.
        span: The span to take; None takes the latest.

    Raises:
        InputError: A setting or the data are wrong; `DataAnomaly` where they break the schema.
    """
    _check_input(settings, span)
    for folder in (settings.pipeline_root, os.path.dirname(os.path.abspath(settings.metadata_path))):
        os.makedirs(folder, exist_ok=True)
    with _no_flags(), _shown_steps(os.path.join(settings.pipeline_root, LOG_FILE)):
        tfx.orchestration.LocalDagRunner().run(create_pipeline(settings, span))
    return read_run(settings)


def _check_input(settings: PipelineSettings, span: int | None) -> None:
    """Refuses an input that ListExampleGen's driver would not find."""
    if not os.path.isdir(settings.input_base):
        raise InputError(f"{settings.input_base}: no such folder")
    splits = [example_gen_pb2.Input.Split(name="raw", pattern=settings.input_pattern)]
    wanted = "" if span is None else f" of span {span}"
    try:
        utils.calculate_splits_fingerprint_span_and_version(
            settings.input_base, splits, None if span is None else static_range(span)
        )
    except ValueError as error:
        raise InputError(
            f"{os.path.join(settings.input_base, settings.input_pattern)}: no files{wanted} ({error})"
        ) from None


def read_run(settings: PipelineSettings) -> PipelineRun:
    """Reads the latest run of the pipeline from the metadata store."""
    store = Store(settings.metadata_path)
    run = store.latest_run(settings.name)
    infra = store.output(run, "InfraCheck" if settings.infra_image is None else "InfraValidator", "blessing")
    pushed = store.output(run, "Pusher", standard_component_specs.PUSHED_MODEL_KEY)
    blessing = store.output(run, "Evaluator", standard_component_specs.BLESSING_KEY)
    evaluation = store.output(run, "Evaluator", standard_component_specs.EVALUATION_KEY)
    trained = store.output(run, "Trainer", standard_component_specs.MODEL_RUN_KEY)
    run_dir = os.path.join(trained.uri, "run")
    blessed = infra.custom_properties["blessed"].int_value == 1
    return PipelineRun(
        run_id=run.name,
        states=store.states(run),
        verdict=read_verdict(evaluation.uri),
        infra_reason=""
        if blessed
        else infra.custom_properties["reason"].string_value or "TensorFlow Serving did not load it",
        validation_reason=blessing.custom_properties[REASON].string_value,
        pushed=pushed.custom_properties["pushed_destination"].string_value or None,
        already_served=pushed.custom_properties[ALREADY_SERVED].string_value or None,
        lists=store.output(run, "ListExampleGen", standard_component_specs.EXAMPLES_KEY).uri,
        run_dir=run_dir if os.path.isdir(run_dir) else None,
    )


class _ShowSteps(logging.Handler):
    """Prints TFX's announcements of components on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        step = _STEP.match(record.getMessage())
        if step and step[2] == "running":
            self._started = time.monotonic()
            print(f"{step[1]} ...", file=sys.stderr, flush=True)
        elif step:
            seconds = time.monotonic() - self._started
            print(f"{step[1]}: {seconds:.1f} s", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _no_flags() -> Iterator[None]:
    """Keeps the caller's own options from TFX, which would read them as flags of its libraries."""
    before = sys.argv
    sys.argv = before[:1]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _shown_steps(log_file: str) -> Iterator[None]:
    """Shows the components as they run, and writes TFX's whole log to a file."""
    logger = absl_logging.get_absl_logger()
    verbosity, propagated = absl_logging.get_verbosity(), logger.propagate
    of_tensorflow = logging.getLogger("tensorflow")
    level = of_tensorflow.level
    of_tensorflow.setLevel(logging.ERROR)
    to_file = logging.FileHandler(log_file)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = [_ShowSteps(), to_file]
    absl_logging.set_verbosity(absl_logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        to_file.close()
        of_tensorflow.setLevel(level)
        logger.propagate = propagated
        absl_logging.set_verbosity(verbosity)
