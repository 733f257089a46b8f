"""`psad rerank`: asks a server to rank lists given as JSON lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

HELP = "rank lists given as JSON lines, one request a line, and write one ranking a line"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad rerank`."""
    add = parser.add_argument
    add("--server", required=True, help="host:port of the server's gRPC API")
    add("--input", default="-", help="file of JSON lines; - reads standard input")
    add("--model_name", default="psad", help="name of the model")
    add("--model_version", type=int, default=None, help="its version (default: the newest)")
    add("--version_label", default=None, help="its version by label")
    add("--top", type=int, default=None, help="length of the rankings (default: all)")
    add("--timeout", type=float, default=1.0, help="seconds for one request; then the initial order is given")
    add("--no_fallback", action="store_true", help="fail instead of giving the initial order")
    add("--users", default=None, help="JSON lines of users whose attributes are added to the requests")
    add("--items", default=None, help="JSON lines of items whose attributes are added to the requests")
    add(
        "--interactions", default=None, help="JSON lines of interactions: the history of requests without one"
    )
    add("--ca_file", default=None, help="PEM file of the server's authority; connects with TLS")
    add("--client_cert_file", default=None, help="PEM file of the client's certificate")
    add("--client_key_file", default=None, help="PEM file of its key")


def run(arguments: argparse.Namespace) -> int:
    """Writes one JSON ranking a line to standard output; 1 when one failed or the model ranked none."""
    import json
    import logging
    import re
    import sys

    from psad_tf.errors import InputError
    from psad_tf.serving.client import (
        CallPolicy,
        ModelChoice,
        RerankClient,
        RerankError,
        RerankRequest,
        Tls,
    )
    from psad_tf.serving.client.requests import with_attributes

    if not re.fullmatch(r".+:[0-9]{1,5}", arguments.server):
        raise InputError(f"--server: must be host:port, got {arguments.server!r}")
    if arguments.top is not None and arguments.top < 1:
        raise InputError(f"--top: must be at least 1, got {arguments.top}")
    users, items = _table(arguments.users, "user_id"), _table(arguments.items, "item_id")
    histories = _histories(arguments.interactions)
    tls = None
    if arguments.ca_file or arguments.client_cert_file:
        tls = Tls(arguments.ca_file, arguments.client_cert_file, arguments.client_key_file)
    model = ModelChoice(arguments.model_name, arguments.model_version, arguments.version_label)
    policy = CallPolicy(timeout=arguments.timeout, fallback=not arguments.no_fallback)
    logging.getLogger("psad_tf.serving.client").setLevel(logging.ERROR)  # each reason is said once, below
    ranked = fallen_back = failed = 0
    reasons: set[str] = set()
    with RerankClient(arguments.server, model=model, policy=policy, tls=tls) as client:
        for where, record in _lines(arguments.input):
            if isinstance(record, dict) and not record.get("history"):
                record = record | {"history": histories.get(record.get("user_id"), [])}
            request = with_attributes(RerankRequest.from_dict(record, where), users, items)
            try:
                ranking = client.rerank(request, top=arguments.top)
            except RerankError as error:
                failed += 1
                print(json.dumps({"request_id": request.request_id, "error": str(error)}), flush=True)
                continue
            ranked += 1
            fallen_back += ranking.source != "model"
            if ranking.reason and ranking.reason not in reasons:
                reasons.add(ranking.reason)
                print(f"the initial order is returned: {ranking.reason}", file=sys.stderr)
            print(json.dumps(ranking.to_dict()), flush=True)
    print(
        f"ranked {ranked} lists from {arguments.server}, {fallen_back} of them in the initial order; "
        f"{failed} failed; written to standard output",
        file=sys.stderr,
    )
    return 1 if failed or 0 < fallen_back == ranked else 0


def _lines(path: str) -> Iterator[tuple[str, Any]]:
    """Decoded JSON objects with where they stand."""
    import json
    import sys

    from psad_tf.data.records import read_json_lines
    from psad_tf.errors import InputError

    if path != "-":
        yield from (
            (f"{path}: record {number}", each) for number, each in enumerate(read_json_lines(path), 1)
        )
        return
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            yield f"standard input:{number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"standard input:{number}: not JSON ({error.msg})") from None


def _histories(path: str | None) -> dict[Any, list[dict[str, Any]]]:
    """Interactions by user, as the requests' `history` takes them."""
    from psad_tf.data.records import read_json_lines

    histories: dict[Any, list[dict[str, Any]]] = {}
    for record in read_json_lines(path) if path else ():
        item = {name: value for name, value in record.items() if name != "user_id"}
        histories.setdefault(record.get("user_id"), []).append(item)
    return histories


def _table(path: str | None, key: str) -> dict[str, dict[str, Any]]:
    """Records of a JSON lines file by id."""
    from psad_tf.data.records import read_json_lines
    from psad_tf.errors import InputError

    table = {}
    for record in read_json_lines(path) if path else ():
        if not isinstance(record.get(key), str):
            raise InputError(f"{path}: a record has no {key!r}")
        table[record[key]] = {name: value for name, value in record.items() if name != key}
    return table
