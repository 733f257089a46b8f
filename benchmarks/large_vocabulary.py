"""Memory and step time of a model with a very large vocabulary, against the formula of docs/training.md.

    python -m benchmarks.large_vocabulary [--ids 10000000] [--kind table] [--dim 32]

Trains on random ids from the whole vocabulary, looked up from strings as in training, and compares what the
process came to hold with

    table: 3 * 4 * V * d bytes      compositional: 3 * 4 * 2 * ceil(sqrt(V)) * d bytes
    lookup: 33 bytes times the next power of two above 8 / 7 * V (ids of up to 22 bytes)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any, Literal

from benchmarks.common import one_line_errors, write_text

MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one measurement and prints it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=10_000_000, help="V, ids in the vocabulary")
    parser.add_argument("--kind", choices=("table", "compositional"), default="table")
    parser.add_argument("--dim", type=int, default=32, help="d, width of an embedding")
    parser.add_argument("--steps", type=int, default=20, help="steps trained")
    parser.add_argument("--batch_size", type=int, default=64, help="lists a step")
    parser.add_argument("--output", default="", help="JSON file; left out: only printed")
    options = parser.parse_args(arguments)
    with one_line_errors():
        found = measure(options.ids, options.kind, options.dim, options.steps, options.batch_size)
    text = json.dumps(found, indent=1)
    print(text)
    if options.output:
        write_text(options.output, text + "\n")


def predicted_bytes(ids: int, kind: str, dim: int) -> int:
    """Weights and the two moments of Adam, float32."""
    rows = ids if kind == "table" else 2 * math.ceil(math.sqrt(ids))
    return 3 * 4 * rows * dim


def predicted_lookup_bytes(ids: int) -> int:
    """TensorFlow's hash table: 24 bytes of string, 8 of its number and 1 of state a slot, filled to 7/8."""
    return 33 * 2 ** math.ceil(math.log2(ids * 8 / 7))


def resident_bytes() -> int:
    """Memory that this process holds now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(
    ids: int, kind: Literal["table", "compositional"], dim: int, steps: int, batch_size: int
) -> dict[str, Any]:
    """Trains `steps` steps and gives predicted and measured MiB and the median step in milliseconds."""
    import numpy as np
    import tensorflow as tf

    from psad_tf.config import DataConfig, EmbeddingConfig, ModelConfig, TrainConfig
    from psad_tf.data.encoder import FeatureEncoder
    from psad_tf.datasets.simulator import SimulatorConfig
    from psad_tf.datasets.simulator import declaration as simulated
    from psad_tf.training.trainer import build_model

    declaration = simulated(SimulatorConfig())
    config = TrainConfig(
        model=dataclasses.replace(
            ModelConfig(), embedding_dim=dim, embedding=EmbeddingConfig(kind=kind, compositional_above=1000)
        ),
        data=DataConfig(batch_size=batch_size),
    )
    statistics = {key: {"mean": 0.0, "std": 1.0} for key in declaration.dense_keys}
    with tempfile.TemporaryDirectory(prefix="psad-vocabulary-") as folder:
        for name in declaration.vocabularies:
            with open(os.path.join(folder, f"{name}.txt"), "w", encoding="ascii") as file:
                file.writelines(f"{name[:2]}{row}\n" for row in range(ids if name == "item_id" else 100))
        tf.zeros([])  # TensorFlow's own start is not measured
        before = resident_bytes()
        encoder = FeatureEncoder(declaration, folder, statistics)
        lookup = resident_bytes() - before
    before = resident_bytes()
    model = build_model(encoder, config)
    train = model.make_train_function()
    source = iter(_batches(encoder, batch_size, config.model.teacher.slots, ids))
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        loss = float(train(source)["loss"])
        seconds.append(time.perf_counter() - started)
    weights = resident_bytes() - before
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    if not np.isfinite(loss):
        raise RuntimeError(f"the loss became {loss}")
    return {
        "ids": ids,
        "kind": kind,
        "dim": dim,
        "predicted_lookup_mib": predicted_lookup_bytes(ids) / MIB,
        "lookup_mib": lookup / MIB,
        "predicted_mib": predicted_bytes(ids, kind, dim) / MIB,
        "weights_and_step_mib": weights / MIB,
        "peak_of_process_mib": peak / MIB,
        "step_ms": 1e3 * float(np.median(seconds[1:])),
    }


def _batches(encoder: Any, lists: int, candidates: int, ids: int) -> Any:
    """Endless batches of records whose items are drawn evenly from the whole vocabulary."""
    import tensorflow as tf

    from psad_tf.features import HISTORY_PREFIX, INITIAL_RANK, ITEM_ID, NEGATIVE, RELEVANCE, SHOWN_POSITION

    declaration = encoder.declaration
    history = declaration.history.length

    def draw(step: tf.Tensor) -> dict[str, tf.Tensor]:
        def strings(feature: Any, *shape: int) -> tf.Tensor:
            seed = [step, hash((feature.name, shape)) % 2**31]
            size = ids if feature.vocabulary == ITEM_ID else 100
            rows = tf.random.stateless_uniform([lists, *shape, feature.width], seed, 0, size, tf.int64)
            return tf.strings.join([feature.vocabulary[:2], tf.strings.as_string(rows)])

        raw = {each.name: strings(each) for each in declaration.context_categorical}
        raw |= {
            HISTORY_PREFIX + each.name: strings(each, history) for each in declaration.history.categorical
        }
        raw |= {each.name: strings(each, candidates) for each in declaration.candidate_categorical}
        raw |= {each.name: tf.zeros([lists]) for each in declaration.context_dense}
        raw |= {HISTORY_PREFIX + each.name: tf.zeros([lists, history]) for each in declaration.history.dense}
        raw |= {each.name: tf.zeros([lists, candidates]) for each in declaration.candidate_dense}
        raw[INITIAL_RANK] = tf.tile(tf.range(candidates, dtype=tf.int64)[tf.newaxis], [lists, 1])
        raw[SHOWN_POSITION] = raw[INITIAL_RANK]
        raw[RELEVANCE] = tf.cast(
            tf.random.stateless_uniform([lists, candidates], [step, 1]) < 0.2, tf.float32
        )
        raw[NEGATIVE] = tf.zeros([lists, candidates])
        return encoder(raw)

    return tf.data.Dataset.counter().map(draw).prefetch(2)


if __name__ == "__main__":
    main()
