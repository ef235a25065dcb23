from hack.testbed import logs

_TIME = b"2026-01-01T00:00:00.123456789Z"


def test_streams_are_separated_and_keep_their_order() -> None:
    content = b"".join(
        _TIME + entry + b"\n" for entry in (b" stdout F one", b" stderr F oh", b" stdout F two")
    )

    assert logs.parse(content) == logs.Logs(stdout=b"one\ntwo\n", stderr=b"oh\n")


def test_a_partial_entry_continues_in_the_next_one_of_its_stream() -> None:
    content = b"".join(
        _TIME + entry + b"\n" for entry in (b" stdout P on", b" stderr F oh", b" stdout F e")
    )

    assert logs.parse(content).stdout == b"one\n"


def test_an_entry_that_is_being_written_is_left_out() -> None:
    assert logs.parse(_TIME + b" stdout F one\n" + _TIME + b" std").stdout == b"one\n"


def test_content_is_bytes_and_may_be_empty() -> None:
    content = _TIME + b" stdout F \n" + _TIME + b" stdout F \xff \xfe\n"

    assert logs.parse(content).stdout == b"\n\xff \xfe\n"
