"""Errors of the server: one status code and one line, as TensorFlow Serving words them.

What a caller is told has no path in it; what the log says keeps the paths.
"""

from __future__ import annotations

import re

import grpc

MAX_MESSAGE = 400

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_NODE = re.compile(r"\{\{[^{}]*\}\}\s*")
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][\w.@+\- ]*\w){2,}[/\\]?")
# What TensorFlow puts in front of an error from inside a function.
_NOISE = re.compile(r"Graph execution error|Detected at node|\d+ root error|  File |<stack traces|\s*\[\[")
_NUMBERED = re.compile(r"^\s*\(\d+\) [A-Z_ ]+: ")
_BATCH_QUEUE_FULL = "batch scheduling queue"
_TOO_FEW_VALUES = "Unexpected number of elements in example <unknown>"


class ServingError(Exception):
    """A request that cannot be answered.

    Args:
        code: The gRPC status code.
        message: What the caller is told.
        detail: What the log says; the message if empty.
    """

    def __init__(self, code: grpc.StatusCode, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail or message


def invalid_argument(message: str) -> ServingError:
    """INVALID_ARGUMENT."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """NOT_FOUND."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    """FAILED_PRECONDITION."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def reason(message: str) -> str:
    """The line of an error's message that says what is wrong, without graph nodes, cut short.

    >>> reason("Graph execution error:\\n\\nDetected at node f\\n{{node f}} /srv/m/1/v: checksum differs")
    '/srv/m/1/v: checksum differs'
    """
    lines = (line for line in message.splitlines() if line.strip() and not _NOISE.match(line))
    line = _NODE.sub("", _NUMBERED.sub("", next(lines, ""))).strip()
    return line if len(line) <= MAX_MESSAGE else line[:MAX_MESSAGE] + "..."


def safe_reason(message: str) -> str:
    """`reason` without file paths.

    >>> safe_reason("{{function_node f}} cannot read /srv/models/1/variables: gone\\nTraceback ...")
    'cannot read <path>: gone'
    """
    return _PATH.sub("<path>", reason(message))


def from_tensorflow(code: int, message: str) -> ServingError:
    """The answer to a TensorFlow error: the same code, a safe message.

    A full batch queue is RESOURCE_EXHAUSTED, so that a client does not take it for a server that went
    away and retry at once. What TensorFlow says of a candidate's feature with too few values is said in full.
    """
    message = message.replace(
        _TOO_FEW_VALUES,
        'a candidate\'s feature has fewer values than its width: fill it up with "" or NaN, or leave it out',
    )
    status = _CODES.get(code, grpc.StatusCode.UNKNOWN)
    if _BATCH_QUEUE_FULL in message:
        status = grpc.StatusCode.RESOURCE_EXHAUSTED
    return ServingError(status, safe_reason(message), reason(message))
