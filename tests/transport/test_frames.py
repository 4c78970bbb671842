"""The wire between a gateway and its replicas."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedfleet.transport.frames import (
    CallText,
    Failure,
    Frame,
    FrameDecoder,
    decode_call,
    decode_cancel,
    encode_call,
    encode_cancel,
    encode_frame,
    encoding_bytes,
    vector_bytes,
)
from embedfleet.vocabulary import ReplicaError


def frame(ids: list[int], width: int = 3) -> Frame:
    vectors = np.arange(len(ids) * width, dtype=np.float32).reshape(len(ids), width)
    return Frame(ids, vector_bytes(vectors), [], queue_us=5, compute_us=7, window=2048)


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=40), max_size=10))
def test_a_call_arrives_as_it_was_sent(texts: list[list[int]]) -> None:
    """Ids, order and numbering survive."""
    sent = [
        CallText(number, encoding_bytes(np.array(ids, np.int32)), bulk=False, deadline_ms=number)
        for number, ids in enumerate(texts)
    ]

    call = decode_call(encode_call("gateway", "key", sent))

    assert [text.encoding.tolist() for text in call.texts] == texts
    assert [text.id for text in call.texts] == list(range(len(texts)))
    assert call.key == "key"


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(1, 200))
def test_frames_are_found_however_the_stream_is_cut(counts: list[int], piece: int) -> None:
    """A frame may arrive byte by byte, or several at once."""
    sent = [frame(list(range(count))) for count in counts]
    stream = b"".join(map(encode_frame, sent))
    decoder = FrameDecoder()

    pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
    found = [each for part in pieces for each in decoder.feed(part)]

    assert found == sent
    assert decoder.pending == 0


def test_vectors_keep_their_bits() -> None:
    """Little-endian float32, untouched."""
    vectors = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)

    received = Frame([0, 1, 2, 3], vector_bytes(vectors), [], 0, 0, 1).matrix(8)

    assert received.tobytes() == vectors.tobytes()


def test_a_torn_stream_is_noticed() -> None:
    """What is left over says that the answer was cut."""
    decoder = FrameDecoder()

    assert list(decoder.feed(encode_frame(frame([1]))[:-1])) == []
    assert decoder.pending > 0


def test_a_frame_of_the_wrong_width_is_refused() -> None:
    """Fewer or more numbers than texts times dimensions mean another model."""
    with pytest.raises(ReplicaError, match="should carry 24 bytes, got 36"):
        frame([0, 1, 2]).matrix(2)


def test_garbage_is_refused() -> None:
    """Bytes that are no frame."""
    with pytest.raises(ReplicaError, match="can't be read"):
        list(FrameDecoder().feed(b"\x04\x00\x00\x00nope"))


def test_an_absurd_length_is_refused_before_anything_is_held_for_it() -> None:
    """A stream of something else must not fill the memory."""
    with pytest.raises(ReplicaError, match="more than 1000 allowed"):
        list(FrameDecoder(limit_bytes=1000).feed(b"\xff\xff\xff\xff"))


def test_a_call_of_another_version_is_refused_with_advice() -> None:
    """Releases on both sides must fit."""
    body = encode_call("gateway", "key", []).replace(b"\x01", b"\x63", 1)

    with pytest.raises(ReplicaError, match=r"wire version 99.*same release"):
        decode_call(body)


@given(st.binary(max_size=200))
@example(b"\x92\xa1\xff\x90")  # a cancellation whose key is no UTF-8
def test_no_body_breaks_the_decoders(body: bytes) -> None:
    """Anything that is no call or cancellation is a ReplicaError, nothing else."""
    for decode in (decode_call, decode_cancel):
        try:
            decode(body)
        except ReplicaError:
            continue


def test_a_cancellation_and_a_failure_arrive_as_they_were_sent() -> None:
    """The two small messages."""
    assert decode_cancel(encode_cancel("key", [3, 1])).ids == [3, 1]
    sent = Frame([], b"", [Failure(4, "invalid_vector", "no")], 0, 0, 1)
    assert list(FrameDecoder().feed(encode_frame(sent))) == [sent]
