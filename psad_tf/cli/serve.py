"""`psad serve`: the embedded server, with the flag names of `tensorflow_model_server`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psad_tf.serving.server.settings import ServerSettings

HELP = "serve exported models over gRPC as TensorFlow Serving does"


def _switch(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad serve`."""
    add = parser.add_argument

    def switch(name: str, default: bool, text: str) -> None:
        add(name, type=_switch, nargs="?", const=True, default=default, metavar="BOOL", help=text)

    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for every interface")
    add("--port", type=int, default=8500, help="gRPC port; 0 takes a free one")
    add("--metrics_port", type=int, default=0, help="port of /metrics for Prometheus; 0 leaves it out")
    add("--metrics_host", default="127.0.0.1", help="address of /metrics")
    add("--model_config_file", default=None, help="text ModelServerConfig")
    add("--model_name", default="psad", help="name of the model (without --model_config_file)")
    add("--model_base_path", default=None, help="its folder of versions (without --model_config_file)")
    switch("--enable_batching", False, "batch requests")
    add("--batching_parameters_file", default=None, help="text BatchingParameters")
    add("--ssl_config_file", default=None, help="text SSLConfig")
    add(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1.0,
        help="time between looks for new versions; 0 never looks again",
    )
    add(
        "--model_config_file_poll_wait_seconds",
        type=float,
        default=0.0,
        help="time between looks at --model_config_file; 0 never looks again",
    )
    switch("--enable_model_warmup", True, "replay warm-up records before a version serves")
    switch(
        "--allow_version_labels_for_unavailable_models",
        False,
        "let a label name a version that is not loaded",
    )
    add("--grpc_max_threads", type=int, default=0, help="concurrent requests; 0 chooses")
    add("--max_queued_requests", type=int, default=256, help="waiting requests; more are refused")
    add("--max_message_bytes", type=int, default=16 * 2**20, help="largest request")
    add("--drain_seconds", type=float, default=10.0, help="time for running requests at shutdown")


def run(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT, then drains."""
    import logging
    import queue
    import signal
    import threading

    from psad_tf.serving.server import EmbeddedServer

    logging.getLogger("psad_tf.serving").setLevel(logging.INFO)
    server = EmbeddedServer(_models(arguments), _settings(arguments))
    events: queue.SimpleQueue[BaseException | str] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: events.put("signal"))

    def start() -> None:
        try:
            server.start()
            events.put("started")
        except BaseException as error:
            events.put(error)

    # Models load in a thread, so that a signal is acted on at once.
    starting = threading.Thread(target=start, name="psad-start")
    starting.start()
    event = events.get()
    if isinstance(event, BaseException):
        raise event
    if event == "started":
        metrics = f", metrics on port {server.metrics_port}" if server.metrics_port else ""
        print(f"serving {', '.join(server.manager.models)}: gRPC on {server.address}{metrics}", flush=True)
        while events.get() != "signal":
            continue
    print("draining", flush=True)
    server.stop()
    starting.join()
    print("ended: every running request was answered or had its time", flush=True)


def _models(arguments: argparse.Namespace) -> Any:
    from psad_tf.errors import InputError
    from psad_tf.serving.server.settings import single_model_config

    if arguments.model_config_file is not None:
        return arguments.model_config_file
    if arguments.model_base_path is None:
        raise InputError("name the models with --model_config_file, or one with --model_base_path")
    return single_model_config(arguments.model_name, arguments.model_base_path)


def _settings(arguments: argparse.Namespace) -> ServerSettings:
    from psad_tf.errors import InputError
    from psad_tf.serving.server import settings

    if arguments.batching_parameters_file is not None and not arguments.enable_batching:
        raise InputError("--batching_parameters_file is given without --enable_batching")
    if arguments.metrics_port and arguments.metrics_port == arguments.port:
        raise InputError("--metrics_port must differ from --port")
    for name in ("port", "metrics_port"):
        if not 0 <= getattr(arguments, name) < 65536:
            raise InputError(f"--{name}: {getattr(arguments, name)} is not a port")
    batching = None
    if arguments.enable_batching:
        path = arguments.batching_parameters_file
        batching = settings.Batching() if path is None else settings.read_batching(path)
    ssl = arguments.ssl_config_file
    return settings.ServerSettings(
        host=arguments.host,
        port=arguments.port,
        metrics_host=arguments.metrics_host,
        metrics_port=arguments.metrics_port or None,
        grpc_max_threads=arguments.grpc_max_threads,
        max_queued_requests=arguments.max_queued_requests,
        max_message_bytes=arguments.max_message_bytes,
        file_system_poll_wait_seconds=arguments.file_system_poll_wait_seconds,
        model_config_file_poll_wait_seconds=arguments.model_config_file_poll_wait_seconds,
        drain_seconds=arguments.drain_seconds,
        enable_model_warmup=arguments.enable_model_warmup,
        allow_version_labels_for_unavailable_models=arguments.allow_version_labels_for_unavailable_models,
        batching=batching,
        ssl=settings.read_ssl(ssl) if ssl else None,
    )
