"""Protos of TensorFlow Serving's configuration files that `tensorflow-serving-api` leaves out.

The package has the protos of the API and of `models.config`, but not those of the batching, monitoring
and TLS files. They are declared here with the field names, numbers and types of TensorFlow Serving's
`session_bundle_config.proto`, `monitoring_config.proto` and `ssl_config.proto`, in a descriptor pool of
their own, so that text files parse here exactly when they parse there.
"""

from __future__ import annotations

from typing import Any

from psad_tf.protos import describe, message_classes

_PACKAGE = "tensorflow.serving"
_INT64, _STRING, _BOOL = (f"google.protobuf.{name}Value" for name in ("Int64", "String", "Bool"))
_CLASSES = message_classes(
    describe(
        _PACKAGE,
        {
            "BatchingParameters": [
                ("max_batch_size", 1, _INT64),
                ("batch_timeout_micros", 2, _INT64),
                ("max_enqueued_batches", 3, _INT64),
                ("num_batch_threads", 4, _INT64),
                ("thread_pool_name", 5, _STRING),
                ("allowed_batch_sizes", 6, "int64*"),
                ("pad_variable_length_inputs", 7, "bool"),
                ("enable_large_batch_splitting", 8, _BOOL),
                ("max_execution_batch_size", 9, _INT64),
            ],
            "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
            "MonitoringConfig": [("prometheus_config", 1, "PrometheusConfig")],
            "SSLConfig": [
                ("server_key", 1, "string"),
                ("server_cert", 2, "string"),
                ("custom_ca", 3, "string"),
                ("client_verify", 4, "bool"),
            ],
        },
    )
)
BatchingParameters: Any = _CLASSES["BatchingParameters"]
MonitoringConfig: Any = _CLASSES["MonitoringConfig"]
SSLConfig: Any = _CLASSES["SSLConfig"]
