"""The fixtures of the store that requests are tried against."""

from tests.store.conftest import certificate, closed_port, publisher, server

__all__ = ["certificate", "closed_port", "publisher", "server"]
