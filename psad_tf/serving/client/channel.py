"""What a client's gRPC channel is given: certificates, reconnection, retries."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import grpc

from psad_tf.errors import InputError

MAX_ATTEMPTS = 5  # gRPC makes no more, whatever it is told


def channel_options(max_attempts: int = MAX_ATTEMPTS) -> list[tuple[str, Any]]:
    """Options of a channel that tries a call again when the server is UNAVAILABLE.

    gRPC itself retries, by its service config, within the call's deadline: after 10 ms, doubling up to
    500 ms, each wait drawn at random. No other status is retried: it would come back, or adds load to a
    server that is already late.

    Args:
        max_attempts: Attempts of one call, 1 to 5; 1 never retries.

    Raises:
        InputError: The number is another.
    """
    if not 1 <= max_attempts <= MAX_ATTEMPTS:
        raise InputError(f"max_attempts: must be 1 to {MAX_ATTEMPTS}, got {max_attempts}")
    options: list[tuple[str, Any]] = [
        # A server that comes back is found within a second, not after gRPC's default of up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_retries", int(max_attempts > 1)),
    ]
    if max_attempts > 1:
        retries = {
            "maxAttempts": max_attempts,
            "initialBackoff": "0.01s",
            "maxBackoff": "0.5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": [grpc.StatusCode.UNAVAILABLE.name],
        }
        config = {"methodConfig": [{"name": [{}], "retryPolicy": retries}]}
        options.append(("grpc.service_config", json.dumps(config)))
    return options


@dataclasses.dataclass(frozen=True)
class Tls:
    """Certificates of a client, file names.

    Args:
        ca: The server's authority; None trusts the system's.
        certificate: The client's own, for mutual TLS.
        key: Of that certificate.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """gRPC credentials from the files."""
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from None
