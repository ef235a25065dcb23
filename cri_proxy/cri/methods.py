"""The table of CRI methods, read from the generated descriptors.

A method is known by its path, as gRPC has it in `:path`: `/runtime.v1.RuntimeService/Version`.
Knowing that a method is unary lets the relay carry it by the cheaper of two ways; a method that is
not in the table, of a newer CRI or of another service, is carried all the same.
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
    """One RPC: its path, the classes of its messages, and whether its answer is a stream."""

    path: str
    request: type[Message]
    response: type[Message]
    is_streaming: bool


def path_of(name: str) -> str:
    """Return the path of the method called `name`, such as `CreateContainer`.

    No two services of the CRI share a method name. Raises KeyError for a name that it lacks.
    """
    return _PATHS[name]


def _methods_of(service: descriptor.ServiceDescriptor) -> list[Method]:
    return [
        Method(
            path=f"/{service.full_name}/{method.name}",
            request=message_factory.GetMessageClass(method.input_type),
            response=message_factory.GetMessageClass(method.output_type),
            is_streaming=method.server_streaming,
        )
        for method in service.methods
    ]


ALL: Final[Mapping[str, Method]] = MappingProxyType(
    {
        method.path: method
        for service in api_pb2.DESCRIPTOR.services_by_name.values()
        for method in _methods_of(service)
    }
)
"""Every method of the CRI by its path."""

UNARY: Final = frozenset(path for path, method in ALL.items() if not method.is_streaming)
"""Paths of the methods with one answer."""

STREAMING: Final = frozenset(ALL) - UNARY
"""Paths of the methods that answer with a stream."""

_PATHS: Final = {path.rpartition("/")[2]: path for path in ALL}
