import socket
import threading

import pytest

from cri_proxy.cli.checks import http
from hack.testbed.web import FileServer, Status


@pytest.fixture
def server(tmp_path):
    with FileServer(tmp_path) as server:
        yield server


def test_response_comes_with_its_time_and_clock(server, tmp_path):
    (tmp_path / "x").write_bytes(b"there")
    response = http.get(f"{server.url}/x", None)

    assert (response.status, response.body) == (200, b"there")
    assert response.seconds >= 0
    assert response.clock_skew is not None
    assert abs(response.clock_skew) < 60


def test_redirect_is_followed_without_credentials_elsewhere(server, tmp_path):
    (tmp_path / "x").write_bytes(b"there")
    with FileServer(tmp_path) as near:
        near.fail("/moved", Status(302, b"", {"Location": f"{server.url}/x"}))
        response = http.get(f"{near.url}/moved".replace("//", "//me:hush@"), None)

    assert response.body == b"there"
    assert "authorization" in near.requests[0].headers
    assert "authorization" not in server.requests[0].headers


def test_server_that_is_no_web_server_is_explained():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail\r\n\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        with pytest.raises(http.Unanswered, match=r"it broke off .*instead of HTTP") as caught:
            http.get(f"http://127.0.0.1:{listener.getsockname()[1]}", None)
        greeting.join(60)

    assert caught.value.advice
