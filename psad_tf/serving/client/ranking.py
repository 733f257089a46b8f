"""What comes back: a ranking, by the model or the initial ranker's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import grpc

from psad_tf.serving.client.policy import RerankError
from psad_tf.serving.client.requests import RerankRequest
from psad_tf.serving.contract import ITEM_IDS, LENGTH, PROBABILITIES, RANKING, SCORES

MODEL = "model"
INITIAL_ORDER = "initial_order"


@dataclasses.dataclass(frozen=True)
class RankedItem:
    """One item of a ranking.

    Attributes:
        item_id: The item.
        position: Where the initial ranker had it, 0 is best.
        score: The model's score; None in a fallback.
        probability: The model's probability of a positive label; None in a fallback.
    """

    item_id: str
    position: int
    score: float | None = None
    probability: float | None = None


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The answer to a request.

    Attributes:
        items: Best first; blocked items are left out.
        source: `model`, or `initial_order` for a fallback.
        reason: Why it is a fallback, "" otherwise.
        version: The model's version; None in a fallback.
        request_id: The request's.
    """

    items: tuple[RankedItem, ...]
    source: str
    reason: str = ""
    version: int | None = None
    request_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return dataclasses.asdict(self)


def ranking_from_outputs(request: RerankRequest, response: Any, top: int | None, row: int = 0) -> Ranking:
    """Reads one list's ranking from a PredictResponse, and makes sure that it is one.

    Args:
        request: What was asked.
        response: Of `rerank_examples`.
        top: Length of the ranking wanted; None for all.
        row: Which list of the batch.

    Raises:
        RerankError: The answer is no ranking of the request's candidates, or has a score or probability
            that is not a finite number.
    """
    outputs: Mapping[str, Any] = response.outputs
    try:
        width = outputs[RANKING].tensor_shape.dim[1].size
        listed = outputs[SCORES].tensor_shape.dim[1].size
        positions = outputs[RANKING].int_val[row * width : (row + 1) * width]
        item_ids = outputs[ITEM_IDS].string_val[row * width : (row + 1) * width]
        scores = outputs[SCORES].float_val[row * listed : (row + 1) * listed]
        probabilities = outputs[PROBABILITIES].float_val[row * listed : (row + 1) * listed]
        length = outputs[LENGTH].int_val[row]
        items: list[RankedItem] = []
        for position, item_id in zip(positions, item_ids, strict=True):
            if not item_id or len(items) == top:
                break
            if position < 0:
                raise IndexError
            candidate = request.candidates[position]
            if candidate.item_id.encode() != item_id or candidate.blocked:
                raise ValueError
            items.append(RankedItem(candidate.item_id, position, scores[position], probabilities[position]))
        shown = sum(not candidate.blocked for candidate in request.candidates)
        wanted = min(shown, width, shown if top is None else top)
        if (
            outputs[ITEM_IDS].tensor_shape.dim[1].size != width
            or length != len(request.candidates)
            or len(items) != wanted
            or len({each.position for each in items}) != wanted
        ):
            raise ValueError
    except (KeyError, IndexError, ValueError):
        raise RerankError(grpc.StatusCode.INTERNAL, "the answer is not a ranking of the request") from None
    for item in items:
        if not (math.isfinite(item.score) and math.isfinite(item.probability)):  # type: ignore[arg-type]
            raise RerankError(
                grpc.StatusCode.INTERNAL,
                f"the answer's score of candidate {item.position} is not a finite number",
            )
    version = response.model_spec.version.value or None
    return Ranking(tuple(items), MODEL, version=version, request_id=request.request_id)


def initial_ranking(request: RerankRequest, top: int | None, reason: str) -> Ranking:
    """The fallback: the initial ranker's order, blocked items left out."""
    positions = request.initial_order()[:top]
    items = tuple(RankedItem(request.candidates[each].item_id, each) for each in positions)
    return Ranking(items, INITIAL_ORDER, reason, request_id=request.request_id)
