"""Protos declared in Python, in a descriptor pool of their own, where no generated module fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, message_factory, wrappers_pb2

# Message -> (field, number, type). A type is a scalar's name as in a .proto file, another message of the
# table, or a wrapper such as `google.protobuf.Int64Value`; * after it makes the field repeated.
Messages = Mapping[str, Sequence[tuple[str, int, str]]]

_Field = descriptor_pb2.FieldDescriptorProto


def describe(package: str, messages: Messages) -> descriptor_pb2.FileDescriptorProto:
    """The file descriptor of proto3 messages.

    Args:
        package: The protos' package.
        messages: The fields of each message.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package.replace('.', '/')}/declared.proto",
        package=package,
        syntax="proto3",
    )
    if any("." in kind for fields in messages.values() for _, _, kind in fields):
        file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            kind = kind.rstrip("*")
            if kind in messages or "." in kind:
                added.type = _Field.TYPE_MESSAGE
                added.type_name = f".{package}.{kind}" if kind in messages else f".{kind}"
            else:
                added.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    return file


def message_classes(file: descriptor_pb2.FileDescriptorProto) -> dict[str, Any]:
    """The classes of a file's messages by name, without the package.

    Args:
        file: What `describe` returned.
    """
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    # The one way that protobuf 3.20 has too, which TFX's compiler for Kubeflow needs.
    classes = message_factory.GetMessages([wrappers, file])
    return {name.rpartition(".")[2]: each for name, each in classes.items()}
