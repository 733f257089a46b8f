"""ExampleListWithContext with its parts left as bytes.

The wire format is input.proto's, so that the serving graph takes a list apart without decoding its
candidates twice, and a server counts them without decoding them at all.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2

from psad_tf.protos import describe, message_classes

_PACKAGE = "psad.serving"
_NAME = "SerializedLists"
MESSAGE_TYPE = f"{_PACKAGE}.{_NAME}"

_FILE = describe(_PACKAGE, {_NAME: [("examples", 1, "bytes*"), ("context", 2, "bytes")]})

# The graph looks the message up in this set, which has to be whole.
DESCRIPTOR_SET = descriptor_pb2.FileDescriptorSet(file=[_FILE]).SerializeToString()
SerializedLists: Any = message_classes(_FILE)[_NAME]
