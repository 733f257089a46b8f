"""Timing of compiled calls, interleaved so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
import tensorflow as tf

from psad_tf.export.served_layers import ServedLayers
from psad_tf.features import HISTORY_PREFIX, FeatureDeclaration

_Key = TypeVar("_Key", bound=Hashable)


def interleaved(
    calls: Mapping[_Key, Callable[[], object]],
    rounds: int,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[_Key, np.ndarray]:
    """Times every call once a round, in a new random order each round.

    Args:
        calls: By name; each must return only when its work is done.
        rounds: Timings of each, after two calls that are not counted.
        seed: Of the order.
        clock: Seconds; `time.process_time` counts the process's work and not its waiting.

    Returns:
        Seconds, float64 [rounds], by name.
    """
    names, random = list(calls), np.random.default_rng(seed)
    seconds = {name: np.empty(rounds) for name in names}
    for call in calls.values():
        call()
        call()
    for index in range(rounds):
        for position in random.permutation(len(names)):
            name = names[position]
            started = clock()
            calls[name]()
            seconds[name][index] = clock() - started
    return seconds


def compiled_call(
    model: tf.keras.Model, function: Callable[..., tf.Tensor], batch: Mapping[str, tf.Tensor]
) -> Callable[[], np.ndarray]:
    """`function(batch)` compiled by XLA for the shapes of `batch`; the call waits for the result.

    The weights of `model` are as an exported model has them: constants, but for large embedding tables. As
    variables, each would be handed over anew at every call, which for a single list takes as long as the
    arithmetic. The batch lies in variables, so that handing over arguments from Python is not timed, and its
    values are no constants to the compiler.
    """
    served = ServedLayers(model)
    with served.in_graph(model):
        call = compiled(function, batch)
    call.served = served  # type: ignore[attr-defined]  # the function refers to variables weakly
    return call


def compiled(function: Callable[..., tf.Tensor], batch: Mapping[str, tf.Tensor]) -> Callable[[], np.ndarray]:
    """`function(batch)` compiled by XLA, its weights as they are; see `compiled_call`."""
    held = {key: tf.Variable(value, trainable=False) for key, value in batch.items()}

    @tf.function(jit_compile=True)
    def of_held() -> tf.Tensor:
        return function({key: variable.value() for key, variable in held.items()})

    concrete = of_held.get_concrete_function()

    def call() -> np.ndarray:
        return concrete().numpy()

    call.held = held  # type: ignore[attr-defined]
    call.mflop = mflop(concrete.graph)  # type: ignore[attr-defined]
    return call


def mflop(graph: tf.Graph) -> float:
    """Millions of floating-point operations of one run of a graph whose shapes are known.

    TensorFlow's own count: 2 m k n for a matrix product, one an element for additions, products and the like;
    what it has no rule for (exponentials in a softmax, say) counts 0, and a loop's body counts once.
    """
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    return float(profiler.profile(graph, options=options.with_empty_output().build()).total_float_ops) / 1e6


def statistics(seconds: Mapping[str, np.ndarray], reference: str) -> dict[str, dict[str, float]]:
    """Median and 99th percentile in milliseconds, and both over the reference's median and percentile."""
    base = {"median": np.median(seconds[reference]), "p99": np.percentile(seconds[reference], 99)}
    result = {}
    for name, values in seconds.items():
        median, p99 = float(np.median(values)), float(np.percentile(values, 99))
        result[name] = {
            "median_ms": 1e3 * median,
            "p99_ms": 1e3 * p99,
            "median_ratio": median / float(base["median"]),
            "p99_ratio": p99 / float(base["p99"]),
            "calls": len(values),
        }
    return result


def random_batch(
    declaration: FeatureDeclaration,
    vocabulary_sizes: Mapping[str, int],
    lists: int,
    candidates: int,
    seed: int = 0,
) -> dict[str, tf.Tensor]:
    """Encoded lists without padding, of random ids and numbers."""
    random, history = np.random.default_rng(seed), declaration.history.length
    arrays: dict[str, np.ndarray] = {
        "context_dense": random.normal(size=(lists, len(declaration.context_dense))),
        "history_dense": random.normal(size=(lists, history, len(declaration.history.dense))),
        "candidate_dense": random.normal(size=(lists, candidates, len(declaration.candidate_dense))),
    }
    batch = {key: tf.constant(value, tf.float32) for key, value in arrays.items()}
    shapes = {
        **{f.name: (f, (lists, f.width)) for f in declaration.context_categorical},
        **{HISTORY_PREFIX + f.name: (f, (lists, history, f.width)) for f in declaration.history.categorical},
        **{f.name: (f, (lists, candidates, f.width)) for f in declaration.candidate_categorical},
    }
    for key, (feature, shape) in shapes.items():
        ids = random.integers(1, vocabulary_sizes[feature.vocabulary], shape)
        batch[key] = tf.constant(ids, tf.int32)
    batch["history_mask"] = tf.ones([lists, history], tf.bool)
    batch["mask"] = tf.ones([lists, candidates], tf.bool)
    batch["initial_rank"] = tf.constant(np.tile(np.arange(candidates), (lists, 1)), tf.int32)
    batch["shown_position"] = batch["initial_rank"]
    return batch


def as_request(declaration: FeatureDeclaration, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Encoded lists as the serving graph has a request after its lookups: ids, and a tensor per number."""
    request = {name: tf.cast(each, tf.int64) for name, each in batch.items() if each.dtype == tf.int32}
    for prefix, features, name in (
        ("", declaration.context_dense, "context_dense"),
        (HISTORY_PREFIX, declaration.history.dense, "history_dense"),
        ("", declaration.candidate_dense, "candidate_dense"),
    ):
        names = [prefix + feature.name for feature in features]
        request |= zip(names, tf.unstack(batch[name], axis=-1), strict=True)
    return request
