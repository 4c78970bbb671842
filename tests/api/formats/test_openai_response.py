"""What is answered in OpenAI's format, to the bit."""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embedfleet.api.formats.openai import (
    derive,
    render_error,
    render_model,
    render_models,
    render_response,
)
from embedfleet.api.formats.vector_forms import Form
from embedfleet.vocabulary import (
    CallerError,
    EmbedfleetError,
    ModelIdentity,
    OverloadedError,
    UnknownModelError,
    VectorError,
    Vectors,
)

IDENTITY = ModelIdentity("Qwen/Qwen3-Embedding-4B", "r", "t", 2560, 32768, 151665)


def unit_rows(texts: int, width: int, seed: int = 0) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((texts, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def rendered(
    vectors: Vectors, encoding_format: Literal["float", "base64"], *, model: str = "m"
) -> dict[str, Any]:
    body = render_response(
        vectors, form=Form(layout=encoding_format), model=model, prompt_tokens=17
    )
    answer: dict[str, Any] = json.loads(body)
    return answer


def read(answer: dict[str, Any]) -> Vectors:
    """Read vectors as clients do, in either form."""
    rows = [
        np.frombuffer(base64.b64decode(one["embedding"], validate=True), dtype="<f4")
        if isinstance(one["embedding"], str)
        else np.array(one["embedding"], dtype=np.float32)
        for one in answer["data"]
    ]
    return np.stack(rows)


class TestDerive:
    def test_full_width_has_the_same_bits(self) -> None:
        vectors = unit_rows(3, 64)
        for dimensions in (None, 64):
            assert np.asarray(derive(vectors, dimensions)).tobytes() == vectors.tobytes()
            assert np.array_equal(derive(list(vectors), dimensions), vectors)

    def test_fewer_dimensions_are_cut_and_brought_to_unit_length(self) -> None:
        vectors = unit_rows(5, 1024)
        cut = np.asarray(derive(vectors, 100))
        assert cut.shape == (5, 100)
        assert cut.dtype == np.float32
        exact = vectors[:, :100].astype(np.float64)
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        np.testing.assert_allclose(cut, exact, rtol=1e-6)

    @settings(deadline=None)
    @given(st.integers(1, 40), st.integers(32, 300), st.integers(0, 2**32 - 1))
    def test_a_vector_gives_the_same_bits_alone_and_among_others(
        self, texts: int, dimensions: int, seed: int
    ) -> None:
        vectors = unit_rows(texts, 300, seed)
        together = derive(vectors, dimensions)
        for row, expected in zip(vectors, together, strict=True):
            assert np.asarray(derive([row.copy()], dimensions)).tobytes() == expected.tobytes()

    def test_the_given_vectors_are_left_as_they_are(self) -> None:
        vectors = unit_rows(2, 64)
        before = vectors.copy()
        derive(vectors, 32)
        assert (vectors == before).all()

    @pytest.mark.parametrize("dimensions", [-1, 0, 65])
    def test_dimensions_that_are_not_there_are_refused(self, dimensions: int) -> None:
        with pytest.raises(ValueError, match="dimensions in vectors of 64"):
            derive(unit_rows(1, 64), dimensions)

    def test_a_vector_of_which_only_zeros_are_left_is_an_error(self) -> None:
        vectors = np.zeros((1, 64), dtype=np.float32)
        vectors[0, 63] = 1
        with pytest.raises(VectorError, match="first 32 dimensions"):
            derive(vectors, 32)


class TestResponse:
    def test_has_openai_s_fields_in_openai_s_order_and_an_empty_id(self) -> None:
        vectors = np.array([[0.5, -0.25], [1.0, 0.0]], dtype=np.float32)
        body = render_response(vectors, model="m", prompt_tokens=17)
        assert body == (
            b'{"object":"list","data":['
            b'{"object":"embedding","index":0,"embedding":[0.5,-0.25]},'
            b'{"object":"embedding","index":1,"embedding":[1.0,0.0]}],'
            b'"model":"m","usage":{"prompt_tokens":17,"total_tokens":17},"id":""}'
        )

    def test_base64_is_little_endian_float32(self) -> None:
        answer = rendered(np.array([[1.0, -2.0]], dtype=np.float32), "base64")
        assert answer["data"][0]["embedding"] == "AACAPwAAAMA="

    @settings(deadline=None)
    @given(
        arrays(
            np.float32,
            st.tuples(st.integers(1, 5), st.integers(1, 40)),
            elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
        )
    )
    def test_both_forms_hold_every_bit_of_every_vector_in_order(self, vectors: Vectors) -> None:
        for encoding_format in ("base64", "float"):
            answer = rendered(vectors, encoding_format)
            assert [one["index"] for one in answer["data"]] == list(range(len(vectors)))
            assert read(answer).tobytes() == vectors.tobytes()

    @settings(deadline=None)
    @given(st.text())
    def test_any_model_name_can_be_said(self, name: str) -> None:
        assert rendered(unit_rows(1, 32), "base64", model=name)["model"] == name

    def test_vectors_may_lie_in_memory_in_any_way(self) -> None:
        wide = unit_rows(4, 64)
        for view in (wide[:, :32], wide[::2], wide[:, ::-1], wide.astype(">f4")):
            for encoding_format in ("base64", "float"):
                assert (read(rendered(view, encoding_format)) == view).all()


class TestError:
    def test_has_openai_s_shape_and_the_message_where_voyage_s_client_looks(self) -> None:
        error = CallerError("`input[3]` is blank.", param="input[3]", code="blank_string")
        assert json.loads(render_error(error)) == {
            "error": {
                "message": "`input[3]` is blank.",
                "type": "invalid_request_error",
                "param": "input[3]",
                "code": "blank_string",
            },
            "detail": "`input[3]` is blank.",
        }

    def test_absent_param_and_code_are_null(self) -> None:
        told = json.loads(render_error(EmbedfleetError("It went wrong.")))["error"]
        assert told == {
            "message": "It went wrong.",
            "type": "server_error",
            "param": None,
            "code": None,
        }

    def test_the_kind_of_an_engine_is_detected(self) -> None:
        assert json.loads(render_error(OverloadedError("x")))["error"]["code"] == "overloaded"
        assert b"invalid_request_error" in render_error(UnknownModelError("x"))

    @settings(deadline=None)
    @given(st.text() | st.text(st.characters(categories=["Cs"])))
    def test_any_message_can_be_said(self, message: str) -> None:
        told = json.loads(render_error(CallerError(message, param=message)))["error"]
        assert told["message"] == message.encode("utf-8", "replace").decode()


class TestModels:
    def test_have_openai_s_fields_and_ours(self) -> None:
        card = {
            "id": "Qwen3-Embedding-4B",
            "object": "model",
            "type": "embedding",
            "created": 1700000000,
            "owned_by": "embedfleet",
            "max_tokens": 32768,
            "dimensions": 2560,
        }
        served = ("Qwen3-Embedding-4B", 1700000000, IDENTITY)
        assert json.loads(render_model(*served)) == card
        assert json.loads(render_models([served])) == {"object": "list", "data": [card]}

    def test_may_be_none(self) -> None:
        assert json.loads(render_models([])) == {"object": "list", "data": []}
