"""How a call is made: deadline, retries, hedging, fallback; and what comes back."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Any

import grpc

from psad_tf.errors import InputError
from psad_tf.serving.requests import RerankRequest

MODEL = "model"
INITIAL_ORDER = "initial_order"


@dataclasses.dataclass(frozen=True)
class CallPolicy:
    """How one rerank call behaves.

    Args:
        timeout: Seconds until an answer must be there, retries and all; the deadline goes to the server.
        retries: Further attempts after UNAVAILABLE, the only status that is retried: any other would
            come back, or adds load to a server that is already late.
        backoff: Seconds before the first retry; doubles each time, drawn between half and whole.
        longest_backoff: Bound of the doubling.
        hedge_after: Seconds after which an unanswered request is sent a second time and the first answer
            is taken; None never does. A good value is the 95th percentile of the latency.
        fallback: Return the initial order when no answer comes in time; otherwise raise `RerankError`.
    """

    timeout: float = 0.2
    retries: int = 5
    backoff: float = 0.01
    longest_backoff: float = 0.5
    hedge_after: float | None = None
    fallback: bool = True

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise InputError(f"timeout: must be positive, got {self.timeout}")
        if self.retries < 0 or self.backoff < 0:
            raise InputError("retries and backoff: must not be negative")

    def delays(self) -> Iterator[float]:
        """Seconds to wait before each retry."""
        delay = self.backoff
        for _ in range(self.retries):
            yield delay * random.uniform(0.5, 1.0)
            delay = min(2.0 * delay, self.longest_backoff)


class RerankError(Exception):
    """A call that got no answer.

    Args:
        code: The gRPC status.
        details: What the server said, or what happened.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


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
    """Reads one list's ranking from a PredictResponse.

    Args:
        request: What was asked.
        response: Of `rerank_examples`.
        top: Length of the ranking wanted; None for all.
        row: Which list of the batch.

    Raises:
        RerankError: The answer is not a reranker's.
    """
    outputs: Mapping[str, Any] = response.outputs
    try:
        width = outputs["ranking"].tensor_shape.dim[1].size
        listed = outputs["scores"].tensor_shape.dim[1].size
        order = outputs["ranking"].int_val[row * width : (row + 1) * width]
        item_ids = outputs["item_ids"].string_val[row * width : (row + 1) * width]
        scores = outputs["scores"].float_val[row * listed : (row + 1) * listed]
        probabilities = outputs["probabilities"].float_val[row * listed : (row + 1) * listed]
        items: list[RankedItem] = []
        for position, item_id in zip(order, item_ids, strict=True):
            if not item_id or len(items) == top:
                break
            known = request.candidates[position].item_id
            items.append(RankedItem(known, position, scores[position], probabilities[position]))
    except (KeyError, IndexError, ValueError):
        raise RerankError(grpc.StatusCode.INTERNAL, "the answer is not a ranking of the request") from None
    version = response.model_spec.version.value or None
    return Ranking(tuple(items), MODEL, version=version, request_id=request.request_id)


def initial_ranking(request: RerankRequest, top: int | None, reason: str) -> Ranking:
    """The fallback: the initial ranker's order, blocked items left out."""
    positions = request.initial_order()[:top]
    items = tuple(RankedItem(request.candidates[each].item_id, each) for each in positions)
    return Ranking(items, INITIAL_ORDER, reason, request_id=request.request_id)
