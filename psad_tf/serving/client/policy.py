"""How a call is made: deadline, hedging, fallback."""

from __future__ import annotations

import dataclasses

import grpc

from psad_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class CallPolicy:
    """How one rerank call behaves.

    Args:
        timeout: Seconds until an answer must be there, retries and all; the deadline goes to the server.
        hedge_after: Seconds after which an unanswered request is sent a second time and the first answer
            is taken; None never does. A good value is the 95th percentile of the latency.
        fallback: Return the initial order when no answer comes in time, or one that is no ranking of the
            request; otherwise raise `RerankError`.
    """

    timeout: float = 0.2
    hedge_after: float | None = None
    fallback: bool = True

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise InputError(f"timeout: must be positive, got {self.timeout}")
        if self.hedge_after is not None and not self.hedge_after >= 0:
            raise InputError(f"hedge_after: must not be negative, got {self.hedge_after}")


class RerankError(Exception):
    """A call that got no answer, or one that cannot be used.

    Args:
        code: The gRPC status.
        details: What the server said, or what happened.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


def deadline_exceeded() -> RerankError:
    """No answer in time."""
    return RerankError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time")
