"""ExampleListWithContext with its parts left as bytes.

The wire format is input.proto's, so that the serving graph takes a list apart without decoding its
candidates twice, and a server counts them without decoding them at all.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "psad.serving"
MESSAGE_TYPE = f"{_PACKAGE}.SerializedLists"


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="psad_serialized_lists.proto", package=_PACKAGE, syntax="proto3"
    )
    message = file.message_type.add(name=MESSAGE_TYPE.rpartition(".")[2])
    kinds = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="examples", number=1, type=kinds.TYPE_BYTES, label=kinds.LABEL_REPEATED)
    message.field.add(name="context", number=2, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
    return file


def _message_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_describe())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(MESSAGE_TYPE))


DESCRIPTOR_SET = descriptor_pb2.FileDescriptorSet(file=[_describe()]).SerializeToString()
SerializedLists = _message_class()
