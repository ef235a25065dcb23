import gc
import socket

import pytest

from hack.testbed import ports


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_reserved_port_answers_only_while_its_server_listens() -> None:
    with ports.kept() as port:
        assert not answers(port)
        for _ in range(2):
            with socket.create_server(("127.0.0.1", port)):
                assert answers(port)
            assert not answers(port)


def test_the_kernel_does_not_assign_a_reserved_port() -> None:
    with ports.kept() as port:
        for _ in range(5000):
            with socket.create_server(("127.0.0.1", 0)) as other:
                assert other.getsockname()[1] != port


def test_a_port_is_reserved_as_long_as_its_owner_exists() -> None:
    class Owner:
        pass

    owner = Owner()
    port = ports.kept_for(owner)
    with pytest.raises(OSError, match="in use"), socket.socket() as careless:
        careless.bind(("127.0.0.1", port))

    del owner
    gc.collect()

    with socket.socket() as careless:
        careless.bind(("127.0.0.1", port))
