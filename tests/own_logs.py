"""Raw logs as an engineer would bring them: lists of any lengths, parts of the declaration left out."""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Sequence

from psad_tf.features import CategoricalFeature, DenseFeature, FeatureDeclaration, HistoryDeclaration

START = 1_700_000_000
ITEMS = 30


def declaration(context: bool = True, dense: bool = True, max_candidates: int = 60) -> FeatureDeclaration:
    """Features of these logs, without those of the context or without any dense ones."""
    return FeatureDeclaration(
        context_categorical=(CategoricalFeature("user_id"), CategoricalFeature("device")) if context else (),
        context_dense=(DenseFeature("age"),) if context and dense else (),
        history=HistoryDeclaration(
            4, (CategoricalFeature("item_id"),), (DenseFeature("age_seconds"),) * dense
        ),
        candidate_categorical=(CategoricalFeature("item_id"),),
        candidate_dense=(DenseFeature("initial_score"),) if dense else (),
        max_candidates=max_candidates,
    )


def write(
    folder: pathlib.Path, lengths: Sequence[int], declared: FeatureDeclaration, histories: bool = True
) -> pathlib.Path:
    """A raw data folder with a list of each of `lengths`, by time; items of low number are clicked."""
    rng = random.Random(5)
    folder.mkdir(parents=True)
    impressions, interactions = [], []
    for index, length in enumerate(lengths):
        user, time = f"u{index % 9}", START + 60 * index
        shown = rng.sample(range(max(ITEMS, length)), length)
        candidates = [
            {
                "item_id": f"i{item}",
                "initial_score": round(rng.random(), 3),
                "feedback": {"click": int(item < 8 and rng.random() < 0.8)},
            }
            for item in shown
        ]
        candidates[0]["feedback"] = {"click": 1}
        impressions.append(
            {
                "request_id": f"r{index}",
                "user_id": user,
                "time": time,
                "context": {"device": rng.choice(["phone", "desk"]), "age": 20 + index % 40},
                "candidates": candidates,
            }
        )
        interactions.append({"user_id": user, "item_id": f"i{shown[0]}", "time": time + 30})
    kinds = {"impressions": impressions, "interactions": interactions if histories else []}
    for kind, records in kinds.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{kind}.jsonl").write_text(text, encoding="utf-8")
    (folder / "features.json").write_text(json.dumps(declared.to_dict()), encoding="utf-8")
    return folder
