"""Whatever a replica or an engine sends: taken with sane values, or one error that says so."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.server.gateway.replicas.third_party.answers import read_vectors
from embedfleet.server.gateway.replicas.third_party.dialects import (
    GATEWAY,
    INFO,
    LLAMACPP,
    MODELS,
    OPENAI,
    SGLANG,
    TEI,
    VLLM,
    Dialect,
    recognise,
)
from embedfleet.server.gateway.replicas.third_party.http import Reply
from embedfleet.transport.description import (
    ReplicaDescription,
    decode_description,
    encode_description,
)
from embedfleet.transport.frames import (
    MOST_MESSAGE,
    MOST_WIDTH,
    CallText,
    Frame,
    FrameDecoder,
    Unanswered,
    decode_call,
    decode_cancel,
    encode_frame,
    most_frame_bytes,
)
from embedfleet.transport.untrusted import MOST_PAGE_BYTES, MOST_SHOWN, message_of, parsed, shown
from embedfleet.vocabulary import ModelIdentity, Precision, ReplicaError, Task

Result = TypeVar("Result")

HONEST: dict[str, Any] = orjson.loads(
    encode_description(
        ReplicaDescription(
            name="m",
            served_names=["m"],
            revision="0" * 32,
            tokenizer="1" * 32,
            width=8,
            max_tokens=100,
            vocabulary=50,
            prompts={"query": "find: "},
            precision=Precision.INT8,
            device="cpu",
            batch_tokens=64,
            window=128,
            cost=(1e-3, 1e-5, 0.0),
            draining=False,
        )
    )
)

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 1e308, -0.0, 1e-300]),
)
WORDS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["", "../../etc/passwd", "/root/.docker", "a\nb", "\x1b[31m", "x" * 20_000]),
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = [
    "data",
    "id",
    "owned_by",
    "model_id",
    "model_type",
    "embedding",
    "pooling",
    "meta",
    "n_ctx",
    "max_model_len",
    "max_input_length",
    "quantization",
    "dtype",
    "version",
    "model_ftype",
    "served_model_name",
    "root",
    "default_generation_settings",
    "max_prefill_tokens",
]
"""That engines' pages are read for."""
BOMBS = [
    b"[" * 100_000,
    b"[" * 1_000 + b"]" * 1_000,
    b'{"a":' * 100_000,
    b"[" + b"[]," * 300_000 + b"[]]",
    b'{"wire":1,"x":' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    b"1" * 500_000,
    b'"' + b"x" * 900_000 + b'"',
    b"\xff\xfe",
    b"",
    b"NaN",
]


def attempted(read: Callable[[], Result]) -> Result | None:
    """What is read; None after an error whose words fit into a line of a log."""
    words = ""
    try:
        return read()
    except ReplicaError as error:
        words = error.message
    assert words.isprintable()
    assert len(words) < 1000
    return None


def dumped(value: object) -> bytes:
    """JSON of anything; numbers that JSON has no room for are written all the same."""
    import json  # noqa: PLC0415  orjson refuses large integers

    return json.dumps(value).encode("utf-8", "surrogatepass")


@given(st.dictionaries(st.sampled_from([*HONEST, "unknown"]), ANYTHING, max_size=4))
def test_a_description_has_sane_values_or_is_an_error(changes: dict[str, Any]) -> None:
    """Whatever its fields hold."""
    told = attempted(lambda: decode_description(dumped(HONEST | changes)))
    if told is None:
        return
    assert set(told.tokenizer + told.revision) <= set("0123456789abcdef")
    assert 1 <= told.width <= MOST_WIDTH
    assert 0 <= told.window < 2**31 > told.batch_tokens > 0
    assert all(math.isfinite(seconds) and seconds >= 0 for seconds in told.cost)
    assert told.busy_s is None or 0 <= told.busy_s < math.inf
    for name in (told.name, told.device, *told.served_names):
        assert name.isprintable() or " " in name or "\xa0" in name or len(name) <= 256
        assert "\n" not in name
        assert "\x1b" not in name


@pytest.mark.parametrize("field", ["tokenizer", "revision"])
@pytest.mark.parametrize(
    "path", ["../../x", "/home/u/.docker", "abcdef01\n", "ABCDEF01", "abc/def0"]
)
def test_a_fingerprint_is_no_path(field: str, path: str) -> None:
    with pytest.raises(ReplicaError, match=field):
        decode_description(dumped(HONEST | {field: path}))


def test_another_version_is_said_to_be_one_whatever_else_changed() -> None:
    """An operator who upgrades sees what to do, and not which field came or went."""
    with pytest.raises(ReplicaError, match="run the same release"):
        decode_description(b'{"wire":99,"everything":"else"}')


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
@pytest.mark.parametrize(
    "read",
    [
        decode_description,
        decode_call,
        decode_cancel,
        lambda body: list(FrameDecoder().feed(len(body).to_bytes(4, "little") + body)),
        lambda body: read_vectors(body, 1),
    ],
    ids=["description", "call", "cancel", "frame", "vectors"],
)
def test_a_decompression_bomb_is_an_error_within_bounds(
    read: Callable[[bytes], object], bomb: bytes
) -> None:
    """Deep nesting, huge numbers, many little things: a few times its own size at most."""
    tracemalloc.start()
    with pytest.raises(ReplicaError):
        read(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40 * MOST_PAGE_BYTES


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_a_decompression_bomb_is_neither_a_page_nor_a_message(bomb: bytes) -> None:
    """What is no JSON is none; what is has no meaning."""
    page = Reply(200, bomb).json
    assert recognise({MODELS: page, INFO: page}) is None
    assert len(message_of(bomb)) <= MOST_SHOWN


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (b'{"error": {"message": "m", "code": 500}}', "m"),
        (b'{"object": "error", "message": "m", "code": 400}', "m"),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"message": "m", "type": "overloaded"}', "m"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [1]}', '{"detail": [1]}'),
        (b"\xff gone", "\ufffd gone"),
        (b"<html>\r\n<head><TITLE>502 Bad\nGateway</TITLE></head>", "502 Bad Gateway"),
        (b"<title>" + b"x" * 400, "<title>" + "x" * 292 + "\u2026"),
        (b"x" * 1000, "x" * 299 + "…"),
        (b"two\nlines \x1b[31m", "two lines [31m"),
    ],
)
def test_a_message_is_found_in_every_engines_form(error: bytes, message: str) -> None:
    assert message_of(error) == message


def frame(**changes: Any) -> bytes:
    """A frame of one text, with other fields."""
    honest = Frame([0], np.zeros(8, "<f4").tobytes(), [], 1, 1, 8, [0])
    fields = msgspec.structs.asdict(honest) | changes
    body = msgspec.msgpack.encode(list(fields.values()))
    return len(body).to_bytes(4, "little") + body


def _packs(value: object) -> bool:
    """Whether MessagePack has room for it."""
    try:
        msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError, ValueError):
        return False
    return True


@given(
    st.dictionaries(
        st.sampled_from(Frame.__struct_fields__),
        st.one_of(ANYTHING, st.binary(max_size=64)).filter(_packs),
        max_size=3,
    )
)
def test_a_frame_has_sane_values_or_is_an_error(changes: dict[str, Any]) -> None:

    def read() -> Frame:
        (told,) = FrameDecoder().feed(frame(**changes))
        news = Unanswered([CallText(0, b"", bulk=False, deadline_ms=0)]).news(told)
        assert news is not None
        news.matrix(8)
        return news

    told = attempted(read)
    if told is None:
        return
    assert told.ids in ([0], [])
    assert 0 <= told.window < 2**31
    assert told.queue_us >= 0 <= told.compute_us
    for failure in told.failures:
        assert failure.message.isprintable()
        assert len(failure.message) <= MOST_MESSAGE


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_frames_or_an_error(noise: bytes, piece: int) -> None:
    """However they are cut; and no more of them is held than one frame may have."""
    decoder = FrameDecoder(most_frame_bytes(1))
    try:
        for at in range(0, len(noise), piece):
            list(decoder.feed(noise[at : at + piece]))
    except ReplicaError:
        return
    assert decoder.pending <= most_frame_bytes(1) + 4


@given(st.binary(min_size=1, max_size=8), st.integers(0, 60))
def test_a_frame_with_other_bytes_in_it_is_taken_or_an_error(noise: bytes, at: int) -> None:
    honest = encode_frame(Frame([0], np.ones(8, "<f4").tobytes(), [], 1, 1, 8, [0]))
    changed = honest[:at] + noise + honest[at + len(noise) :]
    try:
        for told in FrameDecoder(most_frame_bytes(1)).feed(changed):
            news = Unanswered([CallText(0, b"", bulk=False, deadline_ms=0)]).news(told)
            assert news is not None
            assert news.matrix(8).shape == (len(news.ids), 8)
    except ReplicaError:
        pass


@given(st.lists(st.one_of(ANYTHING, st.binary(max_size=9)).filter(_packs), max_size=5))
def test_texts_of_a_call_are_whole_and_have_distinct_ids(texts: list[Any]) -> None:
    """A replica reads bytes of others too."""
    try:
        call = decode_call(msgspec.msgpack.encode([1, "g", "k", texts]))
    except ReplicaError:
        return
    assert len({text.id for text in call.texts}) == len(call.texts)
    for text in call.texts:
        assert text.encoding.dtype == np.int32


@pytest.mark.parametrize("dialect", [SGLANG, VLLM, TEI, LLAMACPP, GATEWAY, OPENAI])
@given(data=st.data())
def test_pages_of_any_kind_give_sane_facts_or_an_error(
    dialect: Dialect, data: st.DataObject
) -> None:
    """An engine's fields may hold anything."""
    fields = st.sampled_from(FIELDS)
    page = st.recursive(
        ANYTHING,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(fields, inner, max_size=6)
        ),
        max_leaves=10,
    )
    names = {MODELS, INFO, dialect.page, *dialect.more}
    pages = {name: data.draw(page) for name in names}
    parsed("pages", recognise, pages)
    model = ModelIdentity("m", "r", "t", 64, 512, 600, task=data.draw(st.sampled_from(Task)))
    facts = attempted(lambda: parsed("pages", dialect.read, pages, model))
    if facts is None:
        return
    for line in (facts.engine, facts.model, facts.serving, facts.trouble):
        assert line.isprintable()
        assert len(line) <= MOST_SHOWN + 60
    for number in (facts.max_tokens, facts.batch_tokens, facts.max_texts, facts.width):
        assert number is None or 0 < number < 2**31


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "index": st.one_of(st.integers(-2, 3), ANYTHING),
                "embedding": st.one_of(
                    st.lists(st.one_of(NUMBERS, st.none()), max_size=4), WORDS, ANYTHING
                ),
            }
        ),
        max_size=3,
    )
)
def test_an_engines_vectors_are_vectors_or_an_error(rows: list[Any]) -> None:
    """Rows that are none are marked, and never infinite or longer than one."""
    read = attempted(lambda: read_vectors(dumped({"data": rows}), len(rows)))
    if read is None:
        return
    assert np.isfinite(read.vectors).all()
    assert np.allclose(np.linalg.norm(read.vectors[read.right], axis=1), 1.0, atol=1e-5)


@given(st.text(max_size=600))
def test_foreign_messages_fit_into_a_line(text: str) -> None:
    line = shown(text)
    assert line.isprintable()
    assert len(line) <= MOST_SHOWN


def test_a_panic_is_an_error_like_others() -> None:
    """Those of libraries in Rust derive from BaseException."""

    class PanicException(BaseException):
        pass

    def panics(_: bytes) -> object:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    with pytest.raises(ReplicaError, match=r"a page: called `Option::unwrap"):
        parsed("a page", panics, b"")
