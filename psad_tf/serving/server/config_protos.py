"""Protos of TensorFlow Serving's configuration files that `tensorflow-serving-api` leaves out.

The package has the protos of the API and of `models.config`, but not those of the batching, monitoring
and TLS files. They are declared here with the field names, numbers and types of TensorFlow Serving's
`session_bundle_config.proto`, `monitoring_config.proto` and `ssl_config.proto`, in a descriptor pool of
their own, so that text files parse here exactly when they parse there.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "tensorflow.serving"
_WRAPPERS = ".google.protobuf."


def _message(file: descriptor_pb2.FileDescriptorProto, name: str, fields: list[tuple[int, str, str]]) -> None:
    """Adds a message; a field's kind is int64*, string, bool, or a message's full name."""
    message = file.message_type.add(name=name)
    scalars = {"int64": _Field.TYPE_INT64, "string": _Field.TYPE_STRING, "bool": _Field.TYPE_BOOL}
    for number, field_name, kind in fields:
        field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
        if kind.endswith("*"):
            field.label = _Field.LABEL_REPEATED
            kind = kind[:-1]
        if kind in scalars:
            field.type = scalars[kind]
        else:
            field.type = _Field.TYPE_MESSAGE
            field.type_name = kind


def _build() -> tuple[Any, Any, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="psad_tf/serving_config_files.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    int64, text, boolean = (_WRAPPERS + name for name in ("Int64Value", "StringValue", "BoolValue"))
    _message(
        file,
        "BatchingParameters",
        [
            (1, "max_batch_size", int64),
            (2, "batch_timeout_micros", int64),
            (3, "max_enqueued_batches", int64),
            (4, "num_batch_threads", int64),
            (5, "thread_pool_name", text),
            (6, "allowed_batch_sizes", "int64*"),
            (7, "pad_variable_length_inputs", "bool"),
            (8, "enable_large_batch_splitting", boolean),
            (9, "max_execution_batch_size", int64),
        ],
    )
    _message(file, "PrometheusConfig", [(1, "enable", "bool"), (2, "path", "string")])
    _message(file, "MonitoringConfig", [(1, "prometheus_config", f".{_PACKAGE}.PrometheusConfig")])
    _message(
        file,
        "SSLConfig",
        [
            (1, "server_key", "string"),
            (2, "server_cert", "string"),
            (3, "custom_ca", "string"),
            (4, "client_verify", "bool"),
        ],
    )
    pool.Add(file)
    names = ("BatchingParameters", "MonitoringConfig", "SSLConfig")
    batching, monitoring, ssl = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in names
    )
    return batching, monitoring, ssl


BatchingParameters, MonitoringConfig, SSLConfig = _build()
