"""What TensorFlow's own tool shows of an exported model is what docs/serving.md documents."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest
import tensorflow as tf

from psad_tf.export.signatures import raw_specs
from tests.export.tiny_run import DECLARATION

TENSOR = re.compile(
    r"(inputs|outputs)\['(\w+)'\] tensor_info:\s+dtype: DT_(\w+)\s+shape: \((.*)\)\s+name: (\S+)"
)
TOOL = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show"]
OUTPUTS = {
    "scores": ("FLOAT", [-1, -1]),
    "probabilities": ("FLOAT", [-1, -1]),
    "ranking": ("INT32", [-1, -1]),
    "item_ids": ("STRING", [-1, -1]),
    "length": ("INT32", [-1]),
}


def documented(specs: dict[str, tf.TensorSpec]) -> dict[str, tuple[str, list[int]]]:
    names = {tf.string: "STRING", tf.float32: "FLOAT", tf.int64: "INT64", tf.bool: "BOOL"}
    return {
        name: (names[spec.dtype], [-1 if size is None else size for size in spec.shape])
        for name, spec in specs.items()
    }


@pytest.fixture(scope="module")
def sections(exported: pathlib.Path) -> dict[str, str]:
    """What the tool prints of each signature."""
    done = subprocess.run(
        [*TOOL, "--dir", str(exported), "--all"],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    _, *parts = re.split(r"signature_def\['(\w+)'\]:", done.stdout)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("signature", ["rerank_examples", "serving_default", "rerank_masked"])
def test_saved_model_cli_shows_the_documented_inputs_and_outputs(
    sections: dict[str, str], signature: str
) -> None:
    shown: dict[str, dict[str, tuple[str, list[int]]]] = {"inputs": {}, "outputs": {}}
    tensors: dict[str, str] = {}
    for kind, name, dtype, shape, tensor in TENSOR.findall(sections[signature]):
        shown[kind][name] = dtype, [int(size) for size in shape.split(",") if size.strip()]
        tensors[name] = tensor
    specs = {
        "rerank_examples": {"examples": tf.TensorSpec([None], tf.string)},
        "serving_default": raw_specs(DECLARATION),
        "rerank_masked": raw_specs(DECLARATION) | {"blocked": tf.TensorSpec([None, None], tf.bool)},
    }[signature]
    assert shown["inputs"] == documented(specs)
    assert shown["outputs"] == OUTPUTS
    for name in specs:
        assert tensors[name] == f"{signature}_{name}:0"  # the graph's own names tell inputs apart, too
    table = (pathlib.Path(__file__).parents[2] / "docs/serving.md").read_text()
    assert all(f"| `{name}` |" in table for name in OUTPUTS)
