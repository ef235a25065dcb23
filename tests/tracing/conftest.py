"""The same station as the daemon's tests have: a whole proxy before a runtime that records."""

from tests.daemon.conftest import station

__all__ = ["station"]
