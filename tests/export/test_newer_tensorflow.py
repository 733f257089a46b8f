"""An exported model in a newer TensorFlow: an environment of its own, named by PSAD_NEWER_TENSORFLOW.

uv venv --python 3.11 /tmp/newer && uv pip install --python /tmp/newer/bin/python tensorflow-cpu==2.21.0
PSAD_NEWER_TENSORFLOW=/tmp/newer/bin/python python -m pytest -rP tests/export/test_newer_tensorflow.py
"""

from __future__ import annotations

import os
import pathlib
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.export.saved_model import export_saved_model
from psad_tf.export.signatures import GraphOptions
from psad_tf.export.warmup import raw_tensors
from tests.export.tiny_run import DECLARATION, make_list

PYTHON = os.environ.get("PSAD_NEWER_TENSORFLOW", "")
LISTS = [make_list(1), make_list(2, 9, 0), make_list(3, 12, 4)]

# Runs where nothing but TensorFlow is installed.
PROGRAM = """
import sys
import numpy as np
import tensorflow as tf

folder, model = sys.argv[1:]
loaded = tf.saved_model.load(model)
for name, function in loaded.signatures.items():
    with np.load(f"{folder}/{name}.npz", allow_pickle=False) as arrays:
        given = {key: tf.constant(arrays[key]) for key in arrays.files}
    np.savez(f"{folder}/{name}-answers.npz", **{
        key: value.numpy().astype("S") if value.dtype == tf.string else value.numpy()
        for key, value in function(**given).items()
    })
print("TensorFlow", tf.__version__)
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="PSAD_NEWER_TENSORFLOW names no Python with a newer TensorFlow")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_newer_tensorflow_gives_the_same_answers(
    jit_compile: bool, tiny_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    exported = export_saved_model(tiny_run, tmp_path / "psad", options=GraphOptions(jit_compile=jit_compile))
    loaded = tf.saved_model.load(exported)
    raw = {
        name: values.astype("S") if values.dtype == object else values
        for name, values in raw_tensors(LISTS, DECLARATION).items()
    }
    inputs = {
        "rerank_examples": {"examples": np.array(LISTS)},
        "serving_default": raw,
        "rerank_masked": raw | {"blocked": np.arange(3 * 12).reshape(3, 12) % 5 == 0},
    }
    for name, arrays in inputs.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, "-c", PROGRAM, str(tmp_path), exported],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, arrays in inputs.items():
        expected = loaded.signatures[name](**{key: tf.constant(value) for key, value in arrays.items()})
        with np.load(tmp_path / f"{name}-answers.npz", allow_pickle=False) as found:
            assert set(found.files) == set(expected)
            for key, values in expected.items():
                if values.dtype.is_floating:
                    np.testing.assert_allclose(found[key], values, atol=1e-5)
                else:
                    same = values.numpy().astype("S") if values.dtype == tf.string else values
                    np.testing.assert_array_equal(found[key], same)
    print(f"same answers from TensorFlow {tf.__version__} and {done.stdout.splitlines()[-1]}")
