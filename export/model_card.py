"""The model card: what an exported model is, what it was trained on and how good it was."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import subprocess
from typing import Any

from psad_tf.export.inspect import Summary
from psad_tf.export.signatures import GraphOptions
from psad_tf.features import load_json
from psad_tf.files import write_json

_INPUTS = {
    "features": "one tensor per declared feature, by its name; history_<name> for the history's",
    "missing": 'categorical "", dense NaN, initial_rank -1 (the position is taken)',
    "history": "newest first; more than the declared length are cut",
    "candidates": "in the initial ranker's order; one without an item id is padding",
    "numbers": "clipped in the graph: standardized ones to +-10, others to +-1e6",
    "outputs": "past a list's end ranking is -1 and item_ids is empty; length counts the candidates",
}
CARD_JSON = os.path.join("assets.extra", "model_card.json")
CARD_TEXT = os.path.join("assets.extra", "model_card.md")


def write_model_card(
    version_dir: str,
    run_dir: str | os.PathLike[str],
    model_name: str,
    version: int,
    options: GraphOptions,
    summary: Summary,
) -> dict[str, Any]:
    """Writes `assets.extra/model_card.json` and `.md` into a version's folder.

    Args:
        version_dir: The exported version.
        run_dir: The run it comes from: configuration, metrics and the manifest of its data.
        model_name: Name under which it is served.
        version: Its number.
        options: How its graph was built.
        summary: Facts read from the SavedModel.

    Returns:
        The card as written to JSON.
    """
    run = os.fspath(run_dir)
    manifest = _optional(run, "lists_manifest.json")
    card = {
        "model": model_name,
        "version": version,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "intended_use": "Orders the last few dozen candidates of a recommender for one user and request.",
        "parts": "User Profile Network and student; the teacher that trained it is not included.",
        "graph": dataclasses.asdict(options),
        "parameters": summary.parameters_exported,
        "signatures": list(summary.signatures),
        "inputs": _INPUTS,
        "bytes": summary.bytes,
        "data": {key: manifest.get(key) for key in ("created", "lists", "candidates")} if manifest else None,
        "metrics": _optional(run, "metrics.json"),
        "configuration": _optional(run, "config.json"),
        "limits": [
            "Items and users outside the vocabularies share one embedding each.",
            "Probabilities are calibrated on the training data's kind of feedback and position of display.",
        ],
    }
    os.makedirs(os.path.join(version_dir, "assets.extra"), exist_ok=True)
    write_json(os.path.join(version_dir, CARD_JSON), card)
    with open(os.path.join(version_dir, CARD_TEXT), "w", encoding="utf-8") as file:
        file.write(_text(card))
    return card


def _optional(folder: str, name: str) -> Any:
    path = os.path.join(folder, name)
    return load_json(path) if os.path.isfile(path) else None


def _commit() -> str | None:
    """The commit of the code that exports, where it runs from a git checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        found = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _text(card: dict[str, Any]) -> str:
    lines = [f"# {card['model']} version {card['version']}", "", card["intended_use"], card["parts"], ""]
    for key in (
        "created",
        "commit",
        "parameters",
        "bytes",
        "signatures",
        "inputs",
        "graph",
        "data",
        "metrics",
    ):
        value = card[key]
        lines.append(f"- {key}: {value if isinstance(value, str | int) else json.dumps(value)}")
    lines += ["", "Limits:", *(f"- {limit}" for limit in card["limits"]), "", "Configuration:", "", "```json"]
    lines += [json.dumps(card["configuration"], indent=2), "```", ""]
    return "\n".join(lines)
