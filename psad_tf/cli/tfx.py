"""`psad tfx`: runs the TFX pipeline on raw logs, up to the pushed model."""

from __future__ import annotations

import argparse
import contextlib
import glob
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psad_tf.tfx_pipeline.runner import PipelineRun
    from psad_tf.tfx_pipeline.settings import PipelineSettings

HELP = "run the TFX pipeline: validate raw logs, train, evaluate, bless, push (needs requirements-dev.txt)"

METADATA_FILE = "metadata.sqlite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad tfx`."""
    add = parser.add_argument
    add("--input_dir", required=True, help="raw data folder, or the folder of the spans")
    add(
        "--input_pattern",
        default="*",
        help="raw files under input_dir, as span-{SPAN}/* or span-{SPAN}/version-{VERSION}/*",
    )
    add("--span", type=int, default=None, help="the span to take (default: the latest)")
    add("--window", type=int, default=1, help="spans to learn from: this one and those just before it")
    add(
        "--features", default="", help="feature declaration (default: features.json of the latest raw folder)"
    )
    add("--output_dir", required=True, help="folder of artifacts and metadata; keep it from run to run")
    add("--serving_dir", default="", help="folder of served models (default: <output_dir>/serving)")
    add("--config", default="", help="JSON file of the training configuration")
    add("--data_rules", default="", help="JSON file of data rules: ranges, presence, domains, drift")
    add("--schema", default="", help="curated schema.pbtxt, instead of declaration and data rules")
    add(
        "--validated_share", type=float, default=1.0, help="share of the lists whose candidates are validated"
    )
    add("--slice", action="append", default=[], help="context feature to slice metrics by; may be repeated")
    add("--min_ndcg", type=float, default=0.0, help="least NDCG@10 on the test lists")
    add(
        "--min_gain",
        type=float,
        default=0.0,
        help="least gain of NDCG@10 over the initial order, on test and validation lists",
    )
    add("--min_change", type=float, default=0.0, help="least change of NDCG@10 to the last blessed model")
    add(
        "--min_slice_change",
        type=float,
        default=None,
        help="least change of NDCG@10 to the last blessed model in every slice (default: no bound)",
    )
    add("--min_slice_ndcg", type=float, default=None, help="least NDCG@10 in every slice (default: no bound)")
    add("--max_latency_ms", type=float, default=0.0, help="bound on a request's median latency; 0 for none")
    add("--infra_image", default="", help="load the candidate in this Docker image of TensorFlow Serving")
    add("--num_shards", type=int, default=4, help="files per split")
    add("--name", default="psad", help="name of the pipeline: of cache and baseline")
    add("--model_name", default="psad", help="name under which the model is served")
    add("--no_cache", action="store_true", help="run every component anew")
    add("--kubeflow", default="", metavar="FILE", help="write a Kubeflow Pipelines job instead of running")
    add("--image", default="", help="container image of the Kubeflow job")
    add(
        "beam_options",
        nargs="*",
        metavar="-- BEAM_OPTION",
        help="options of Beam after --, for every component that runs on it (default: in this process)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the pipeline; 1 where the model is neither pushed nor served already."""
    from psad_tf.tfx_pipeline.dependencies import require_kubeflow, require_tfx

    require_tfx()
    if arguments.kubeflow:
        require_kubeflow()
    with quiet_imports():
        settings = settings_of(arguments)
    if arguments.kubeflow:
        from psad_tf.tfx_pipeline.kubeflow import compile_for_kubeflow

        compile_for_kubeflow(settings, arguments.kubeflow, arguments.image, arguments.span)
        print(f"Wrote the job {arguments.kubeflow}")
        return 0
    print("Starting TFX (its import takes a while) ...", file=sys.stderr, flush=True)
    with quiet_imports():
        from psad_tf.tfx_pipeline.runner import run_local

    done = run_local(settings, arguments.span)
    print_run(done)
    print(f"metadata in {settings.metadata_path} (see 'psad lineage --metadata {settings.metadata_path}')")
    return 0 if done.pushed or done.already_served else 1


def print_run(done: PipelineRun) -> None:
    """Says what was cached, how good the candidate is and whether it was pushed."""
    cached = ", ".join(name for name, state in done.states.items() if state == "cached")
    print(f"taken from the cache: {cached or 'nothing'}")
    print(f"lists in {done.lists}, training run in {done.run_dir}")
    metrics_of = done.verdict.metrics
    for name in sorted(metrics_of, key=lambda name: (name != "overall", name)):
        metrics = metrics_of[name]
        base = done.verdict.baseline.get(name, {}).get("ndcg_10")
        against = "" if base is None else f", last blessed {base:.4f}"
        print(
            f"  {name}: {metrics['example_count']:.0f} lists, NDCG@10 {metrics['ndcg_10']:.4f}{against}, "
            f"over the initial order {metrics['ndcg_10_gain']:+.4f}, MAP@10 {metrics['map_10']:.4f}"
        )
    if done.pushed:
        print(f"pushed to {done.pushed}")
        return
    if done.already_served:
        print(f"served already as {done.already_served}, so not pushed again")
        return
    for failure in done.verdict.failures:
        print(f"not blessed: {failure}")
    if done.validation_reason:
        print(f"not blessed: {done.validation_reason}")
    if done.infra_reason:
        print(f"cannot be served: {done.infra_reason}")
    print("not pushed")


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Keeps back what TFX's packages say of each other when they are imported."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def settings_of(arguments: argparse.Namespace) -> PipelineSettings:
    """The pipeline's settings, from the command's options.

    Raises:
        InputError: An option is wrong, or a file that one names.
    """
    from psad_tf.beam.options import PreprocessOptions
    from psad_tf.config import TrainConfig, load_train_config
    from psad_tf.features import load_declaration
    from psad_tf.tfx_pipeline.rules import BlessingRules, DataRules, load_data_rules
    from psad_tf.tfx_pipeline.settings import LOCAL_BEAM, PipelineSettings

    output = os.path.abspath(arguments.output_dir)
    return PipelineSettings(
        input_base=os.path.abspath(arguments.input_dir),
        pipeline_root=os.path.join(output, "artifacts"),
        serving_base=os.path.abspath(arguments.serving_dir or os.path.join(output, "serving")),
        metadata_path=os.path.join(output, METADATA_FILE),
        declaration=load_declaration(
            arguments.features or find_declaration(arguments.input_dir, arguments.input_pattern)
        ),
        name=arguments.name,
        model_name=arguments.model_name,
        input_pattern=arguments.input_pattern,
        window=arguments.window,
        preprocess=PreprocessOptions(num_shards=arguments.num_shards),
        train=load_train_config(arguments.config) if arguments.config else TrainConfig(),
        data_rules=load_data_rules(arguments.data_rules) if arguments.data_rules else DataRules(),
        validated_share=arguments.validated_share,
        schema_file=os.path.abspath(arguments.schema) if arguments.schema else None,
        blessing=BlessingRules(
            ndcg_at_least=arguments.min_ndcg,
            gain_at_least=arguments.min_gain,
            change_at_least=arguments.min_change,
            slice_ndcg_at_least=arguments.min_slice_ndcg,
            slice_change_at_least=arguments.min_slice_change,
        ),
        slices=tuple(arguments.slice),
        infra_image=arguments.infra_image or None,
        max_latency_ms=arguments.max_latency_ms,
        enable_cache=not arguments.no_cache,
        beam_args=tuple(arguments.beam_options) or LOCAL_BEAM,
    )


def find_declaration(input_dir: str, pattern: str) -> str:
    """The `features.json` beside the raw files of the latest span.

    Raises:
        InputError: There is none.
    """
    from psad_tf.data.records import FEATURES_FILE
    from psad_tf.errors import InputError

    folder = os.path.join(glob.escape(input_dir), re.sub(r"\{[^}]*\}", "*", os.path.dirname(pattern)))
    found = glob.glob(os.path.join(folder, FEATURES_FILE))
    if not found:
        where = os.path.join(input_dir, os.path.dirname(pattern), FEATURES_FILE)
        raise InputError(f"{where}: no such file; name the feature declaration with --features")
    return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path)])
