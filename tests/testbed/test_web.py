"""The web server has the configured faults, and no others."""

import http.client
import threading
from contextlib import closing

import pytest
import urllib3

from hack.testbed.web import Corruption, FileServer, Hang, Status, Truncation

WAIT_SECONDS = 30
DATA = bytes(range(256)) * 4000


@pytest.fixture
def server(tmp_path):
    (tmp_path / "nar").mkdir()
    (tmp_path / "nar/large").write_bytes(DATA)
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path.parent / "secret").write_bytes(b"secret")
    with FileServer(tmp_path) as running:
        yield running


@pytest.fixture
def get(server):
    """A client that keeps one connection and does not retry."""
    with urllib3.PoolManager(retries=False, timeout=WAIT_SECONDS) as pool:
        yield lambda path, method="GET", **more: pool.request(method, server.url + path, **more)


def test_files_are_served_and_requests_are_recorded(server, get):
    assert get("/nar/large").data == DATA
    assert get("/small?query", headers={"X-Note": "y"}).data == b"small"

    assert [(each.method, each.path) for each in server.requests] == [
        ("GET", "/nar/large"),
        ("GET", "/small?query"),
    ]
    assert server.requests[1].headers["x-note"] == "y"
    assert server.count("/nar/*") == 1
    server.forget()
    assert server.count() == 0


def test_connection_is_persistent(server):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        for method in ("GET", "HEAD", "GET"):
            connection.request(method, "/small")
            socket = connection.sock
            assert connection.getresponse().read() == (b"" if method == "HEAD" else b"small")
            assert connection.sock is socket


@pytest.mark.parametrize("path", ["/none", "/", "/nar", "/../secret", "/nar/%2e%2e/%2e%2e/secret"])
def test_paths_other_than_files_below_the_directory_are_not_found(server, path):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("GET", path)

        assert connection.getresponse().status == 404


def test_status_is_answered_the_given_number_of_times(server, get):
    server.fail("/small", Status(503), times=2)

    assert [get("/small").status for _ in range(3)] == [503, 503, 200]


def test_fault_without_a_number_stays_until_heal(server, get):
    server.fail("*", Status(500))
    assert [get("/small").status for _ in range(3)] == [500] * 3

    server.heal()
    assert get("/small").status == 200


def test_truncated_file_ends_early(server, get):
    server.fail("/nar/*", Truncation(1000), times=1)

    with pytest.raises(urllib3.exceptions.ProtocolError, match="1000 bytes read"):
        get("/nar/large")
    assert get("/nar/large").data == DATA


def test_corrupted_file_has_one_byte_altered(server, get):
    server.fail("/nar/*", Corruption(5000))
    data = get("/nar/large").data

    assert [index for index in range(len(DATA)) if data[index] != DATA[index]] == [5000]


def test_hanging_file_continues_when_it_is_released(server, get):
    hang = Hang(10)
    server.fail("/nar/*", hang)
    response = get("/nar/large", preload_content=False)
    assert response.read(10) == DATA[:10]

    hang.released.set()
    assert response.read() == DATA[10:]


def test_missing_authorization_is_refused(server, get):
    server.authorization = "Basic eDp5"

    assert get("/small").status == 401
    assert get("/small", headers={"Authorization": "Basic eDp5"}).status == 200


def test_concurrent_requests_are_counted(server, get):
    hang = Hang()
    server.fail("/nar/*", hang)
    responses = [get("/nar/large", preload_content=False) for _ in range(3)]
    assert server.peak == 3

    hang.released.set()
    assert [response.data == DATA for response in responses] == [True] * 3


def test_stopped_server_breaks_connections_and_restarts_on_the_same_port(server, get):
    server.fail("/nar/*", Hang(10))
    response = get("/nar/large", preload_content=False)
    port = server.port
    server.stop()

    with pytest.raises(urllib3.exceptions.ProtocolError):
        response.read()
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        get("/small")
    server.heal()
    server.start()
    assert server.port == port
    assert get("/small").data == b"small"


def test_delayed_answer_does_not_delay_stopping(server):
    server.delay_seconds = 3600
    failed = threading.Event()

    def ask():
        with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            try:
                connection.request("GET", "/small")
                connection.getresponse()
            except (OSError, http.client.HTTPException):
                failed.set()

    asking = threading.Thread(target=ask)
    asking.start()
    with server.changed:
        assert server.changed.wait_for(lambda: server.peak == 1, WAIT_SECONDS)
    server.stop()

    assert failed.wait(WAIT_SECONDS)
    asking.join()
