"""A user with a million interactions costs little memory beside the runner's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.beam import logs

ROOT = Path(__file__).parents[2]
REQUESTS = 20

# Peak memory never falls, so the small log goes first; one process, so that both count the same imports.
MEASURE = """
import resource, sys
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.features import load_declaration

for folder in sys.argv[1:]:
    options = PreprocessOptions(num_shards=1, buffer_bytes=8 << 20)
    preprocess(folder, folder + "-lists", load_declaration(folder + "/features.json"), options=options)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def _skewed_log(folder, interactions):
    """One user has so many interactions, in no order of time, and asks between them; 40 other lists."""
    data = logs.records()
    data["impressions"] += [
        {
            **logs.impression(1000 + number, 0, logs.START + interactions * (number + 1) // REQUESTS, [1, 2]),
            "user_id": "hot",
        }
        for number in range(REQUESTS)
    ]
    logs.write_folder(folder, data)
    line = '{"user_id":"hot","item_id":"item-%d","time":%d,"feedback":{"rating":3}}\n'
    with open(folder / "interactions.jsonl", "a") as file:
        for number in range(interactions):
            second = number * 7919 % interactions
            # Few items: the join remembers the last 50,000, which would be counted too.
            file.write(line % (second % 25, logs.START + second))
    return folder


def test_a_user_with_a_million_interactions_does_not_sink_a_worker(tmp_path):
    few, many = _skewed_log(tmp_path / "few", 5_000), _skewed_log(tmp_path / "many", 1_000_000)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, few, many],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    manifest = json.loads((tmp_path / "many-lists" / "manifest.json").read_text())
    assert manifest["counts"]["interactions"]["kept"] == 1_000_000 + 240
    last = logs.read_lists(tmp_path / "many-lists")[f"request-{1000 + REQUESTS - 1}"]
    seen = [f"item-{(1_000_000 - back) % 25}" for back in range(1, 6)]
    assert logs.values(last.context, "history_item_id") == seen
    # Held all at once the million would be 170 MiB more.
    assert large - small < 80, f"{small} MiB with 5,000 interactions of a user, {large} MiB with 1,000,000"
