"""Declare the features of a shop and write a folder of its raw logs.

    python examples/custom_features.py --output_dir raw

A declaration names every feature once; parsing, vocabularies, schema and the serving signature follow from
it. The logs here are made up, so that the example runs anywhere: replace `log` by what reads yours.
"""

from __future__ import annotations

import argparse
import pathlib
import random
from typing import Any

import psad_tf as psad
from psad_tf.data.records import write_json_lines
from psad_tf.features import (
    CategoricalFeature,
    DenseFeature,
    HistoryDeclaration,
    LabelDeclaration,
    LabelRule,
)
from psad_tf.files import write_json

DECLARATION = psad.FeatureDeclaration(
    context_categorical=(CategoricalFeature("user_id"), CategoricalFeature("device")),
    context_dense=(),
    history=HistoryDeclaration(
        length=20,
        categorical=(CategoricalFeature("item_id"), CategoricalFeature("tags", width=3)),
        dense=(DenseFeature("age_seconds", "log1p_standardize"),),
    ),
    # `width` values of one feature; candidates and history share a vocabulary by its name.
    candidate_categorical=(CategoricalFeature("item_id"), CategoricalFeature("tags", width=3)),
    candidate_dense=(DenseFeature("initial_score"), DenseFeature("price", "log1p_standardize")),
    # Several kinds of feedback become one graded label; its gain is 2^grade - 1.
    label=LabelDeclaration(grades=(LabelRule("click", 1.0, 1), LabelRule("purchase", 1.0, 2))),
    max_candidates=50,
)

TAGS = ("shoes", "shirts", "bags", "books", "games", "tea")


def log(lists: int, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Impressions of 12 candidates of which 4 were shown, clicks, and items."""
    rng = random.Random(seed)
    items = [
        {"item_id": f"i{number}", "tags": rng.sample(TAGS, rng.randint(1, 3)), "price": rng.uniform(3, 90)}
        for number in range(80)
    ]
    impressions, interactions = [], []
    for number in range(lists):
        user, time = f"u{number % 40}", 1_700_000_000 + 3_600 * number
        candidates = []
        for slot, item in enumerate(rng.sample(items, 12)):
            candidate: dict[str, Any] = {"item_id": item["item_id"], "initial_score": 1.0 / (slot + 1)}
            if slot < 4:  # the others were not shown: they have no position and no feedback
                likes = TAGS[number % 40 % len(TAGS)] in item["tags"]
                click = rng.random() < (0.6 if likes else 0.1)
                purchase = click and rng.random() < 0.3
                candidate |= {"position": slot, "feedback": {"click": int(click), "purchase": int(purchase)}}
                if click:
                    interactions.append(
                        {
                            "user_id": user,
                            "item_id": item["item_id"],
                            "time": time + 60,
                            "feedback": {"click": 1},
                        }
                    )
            candidates.append(candidate)
        impressions.append(
            {
                "request_id": f"r{number}",
                "user_id": user,
                "time": time,
                "context": {"device": rng.choice(("phone", "desktop"))},
                "candidates": candidates,
            }
        )
    return {"impressions": impressions, "interactions": interactions, "items": items}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output_dir", default="raw", help="folder of raw logs to write")
    parser.add_argument("--lists", type=int, default=600, help="impressions to make up")
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, records in log(arguments.lists).items():
        write_json_lines(folder / f"{kind}.jsonl", records)
    write_json(folder / "features.json", DECLARATION.to_dict())
    print(f"{arguments.lists} impressions and their declaration are in {folder}")


if __name__ == "__main__":
    main()
