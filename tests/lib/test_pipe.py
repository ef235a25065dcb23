import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy.lib import codec, meters, pipe

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


def start(number, argument):
    return pipe.StartMessage(number, "job", msgspec.Raw(codec.encode(argument)))


@given(st.lists(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON), max_size=4))
def test_frames_carry_messages_through_one_stream(arguments):
    frames = [pipe.frame_of(start(number, each)) for number, each in enumerate(arguments)]
    stream = io.BytesIO(b"".join(frames))
    messages = [pipe.read(stream, pipe.TO_WORKER) for _ in arguments]

    assert [each.id for each in messages] == list(range(len(arguments)))
    assert [codec.decode(each.argument, dict) for each in messages] == arguments
    assert pipe.read(stream, pipe.TO_WORKER) is None


def test_counts_are_carried_with_the_names_of_their_counter():
    increments = (
        meters.Increment("a_total", "Things.", ("outcome",), ("good",), 3),
        meters.Increment("b_total", "Bytes.", (), (), 0.5),
    )
    stream = io.BytesIO(pipe.frame_of(pipe.CountsMessage(increments)))

    assert pipe.read(stream, pipe.FROM_WORKER) == pipe.CountsMessage(increments)


@given(st.integers(0, 20))
def test_stream_that_ends_within_a_frame_has_ended(size):
    frame = pipe.frame_of(pipe.ResultMessage(1, msgspec.Raw(b"{}")))
    stream = io.BytesIO(frame[: min(size, len(frame) - 1)])

    assert pipe.read(stream, pipe.FROM_WORKER) is None


def test_frame_beyond_the_limit_is_neither_written_nor_read():
    with pytest.raises(pipe.FrameInvalid, match="beyond"):
        pipe.frame_of(start(1, "x" * pipe.MAX_FRAME_BYTES))
    with pytest.raises(pipe.FrameInvalid, match="beyond"):
        pipe.length_of(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("payload", [b"{", b"[]", b"\xff", b"", b"{}", b'{"type":"x","id":1}'])
def test_payload_that_is_no_message_is_refused(payload):
    with pytest.raises(pipe.FrameInvalid):
        pipe.message_of(payload, pipe.TO_WORKER)
