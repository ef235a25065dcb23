"""The table of CRI methods, read from the generated descriptors.

A method is identified by its path, gRPC's `:path`: `/runtime.v1.RuntimeService/Version`. For unary
methods in the table the relay has a cheaper implementation; methods that are not in the table, of a
newer CRI or of another service, are forwarded all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from google.protobuf import descriptor, message_factory
from google.protobuf.message import Message

from cri_proxy.cri import api_pb2


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its path, the classes of its messages, and whether its response is a stream."""

    path: str
    request: type[Message]
    response: type[Message]
    is_streaming: bool


def path_of(name: str) -> str:
    """Return the path of the method called `name`; names are unique across the CRI's services."""
    return _PATHS[name]


def _method_of(described: descriptor.MethodDescriptor) -> Method:
    return Method(
        path=f"/{described.containing_service.full_name}/{described.name}",
        request=message_factory.GetMessageClass(described.input_type),
        response=message_factory.GetMessageClass(described.output_type),
        is_streaming=described.server_streaming,
    )


ALL: Final[Mapping[str, Method]] = MappingProxyType(
    {
        method.path: method
        for service in api_pb2.DESCRIPTOR.services_by_name.values()
        for method in map(_method_of, service.methods)
    }
)
"""All methods of the CRI by path."""

UNARY: Final = frozenset(path for path, method in ALL.items() if not method.is_streaming)
"""Paths of the methods with a single response."""

STREAMING: Final = frozenset(ALL) - UNARY
"""Paths of the methods that respond with a stream."""

_PATHS: Final = {path.rpartition("/")[2]: path for path in ALL}
