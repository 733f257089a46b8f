"""Generated data that many tests share, made once a run, and the order in which files of tests run."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Most of XLA's time goes to optimizing machine code for steps that a test takes once or twice.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest

# Tracing makes many objects that stay: collecting often walks over them in vain.
gc.set_threshold(100_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of TFX, and puts files that take long first, so that none is left to one core."""
    weight: dict[pathlib.Path, float] = {}
    for item in items:
        if "tfx_pipeline" in item.path.parts:
            item.add_marker("tfx")
        limit = item.get_closest_marker("timeout")
        seconds = (limit.args[0] if limit else 0) + (item.get_closest_marker("slow") is not None)
        weight[item.path] = max(weight.get(item.path, 0), seconds)
    items.sort(key=lambda item: -weight[item.path])


def pytest_collection_finish() -> None:
    """Spares what takes long and shows nothing.

    Libraries ask `inspect` the same again and again: a tenth of tracing, a sixth of a Beam job; Beam parses
    its options anew for each transform, another sixth. Optimizing a graph takes a third as long as tracing
    it, for steps that a test takes once or twice: only tests with the fixture `optimized_graphs`, sessions
    and processes of their own have it.
    """
    if "tensorflow" in sys.modules:
        import tensorflow as tf
        from tensorflow.python.util import tf_contextlib

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

        assert tf_contextlib.contextmanager is not contextlib.contextmanager
        tf_contextlib.contextmanager = contextlib.contextmanager  # without the signature of each operation's
    if "apache_beam" in sys.modules:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.transforms import core

        core.get_function_args_defaults = _once_a_method(core.get_function_args_defaults)
        PipelineOptions.view_as = _once_a_class(PipelineOptions.view_as)


def _once_a_method(
    asked: Callable[[Any], tuple[list[str], list[Any]]],
) -> Callable[[Any], tuple[list[str], list[Any]]]:
    known: dict[Any, tuple[list[str], list[Any]]] = {}

    def arguments_and_defaults(function: Any) -> tuple[list[str], list[Any]]:
        method = getattr(function, "__func__", None)
        if method is None:
            return asked(function)
        if method not in known:
            known[method] = asked(function)
        arguments, defaults = known[method]
        return list(arguments), list(defaults)

    return arguments_and_defaults


def _once_a_class(view_as: Callable[[Any, type], Any]) -> Callable[[Any, type], Any]:
    views: dict[tuple[int, type], Any] = {}  # a view keeps the options that its key is the id of

    def view_of(options: Any, wanted: type) -> Any:
        key = id(options._all_options), wanted
        if key not in views:
            views[key] = view_as(options, wanted)
        return views[key]

    return view_of


@pytest.fixture
def optimized_graphs() -> Iterator[None]:
    """TensorFlow optimizes graphs before it runs them, as it does where nothing is set."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def shared_folder(
    factory: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], object]
) -> pathlib.Path:
    """A folder that the first process to want it makes for all processes of the run; nobody writes to it.

    Args:
        factory: pytest's.
        name: Of the folder, one a kind of content.
        make: Writes the folder given, which does not exist yet.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    folder = base / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_name(f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_name(f"{name}.partial")
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def raw_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A raw data folder of 240 simulated lists of 8 candidates."""
    from psad_tf.datasets.simulator import SimulatorConfig, simulate

    config = SimulatorConfig(lists=240, candidates=8, items=60, seed=7)
    return shared_folder(tmp_path_factory, "raw", lambda folder: simulate(str(folder), config, 1))


@pytest.fixture(scope="session")
def lists_dir(raw_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The same world's training lists."""
    from psad_tf.beam.pipeline import preprocess
    from psad_tf.features import load_declaration

    declaration = load_declaration(raw_dir / "features.json")
    return shared_folder(
        tmp_path_factory, "lists", lambda folder: preprocess(str(raw_dir), str(folder), declaration)
    )
