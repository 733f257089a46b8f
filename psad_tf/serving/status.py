"""Errors of the server: one status code and one safe line, as TensorFlow Serving words them."""

from __future__ import annotations

import re

import grpc

LONGEST_MESSAGE = 400

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_NODE = re.compile(r"\{\{[^{}]*\}\}\s*")
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][\w.@+\- ]*\w){2,}[/\\]?")
# What TensorFlow puts in front of an error from inside a function.
_NOISE = re.compile(r"Graph execution error|Detected at node|  File |<stack traces unavailable>|\t ?\[\[")
_BATCH_QUEUE_FULL = "batch scheduling queue"


class ServingError(Exception):
    """A request that cannot be answered.

    Args:
        code: The gRPC status code.
        message: What the caller is told.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid_argument(message: str) -> ServingError:
    """INVALID_ARGUMENT."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """NOT_FOUND."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    """FAILED_PRECONDITION."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def safe_line(message: str) -> str:
    """The first line of a message that says something, without graph nodes and file paths, cut short.

    >>> safe_line("{{function_node f}} cannot read /srv/models/1/variables: gone\\nTraceback ...")
    'cannot read <path>: gone'
    """
    lines = (line for line in message.splitlines() if line.strip() and not _NOISE.match(line))
    line = next(lines, "")
    line = _PATH.sub("<path>", _NODE.sub("", line)).strip()
    return line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE] + "..."


def from_tensorflow(code: int, message: str) -> ServingError:
    """The answer to a TensorFlow error: the same code, a safe message.

    A full batch queue is RESOURCE_EXHAUSTED, so that a client does not take it for a server that went
    away and retry at once.
    """
    status = _CODES.get(code, grpc.StatusCode.UNKNOWN)
    if _BATCH_QUEUE_FULL in message:
        status = grpc.StatusCode.RESOURCE_EXHAUSTED
    return ServingError(status, safe_line(message))
