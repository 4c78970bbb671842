"""Texts to token ids as the model wants them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import EncodedText, Encoder
from embedfleet.models.encoding.prompts import instruction_prompt
from embedfleet.vocabulary import CallerError, Truncation
from tests.real_texts import passages
from tests.small_tokenizer import END, id_of, tokenizer, write_model

LIBRARY = tokenizer()
END_ID = id_of(END)
VOCABULARY = LIBRARY.get_vocab_size()
LIMIT = 512


@pytest.fixture(scope="module", params=["with post-processor", "without post-processor"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    built = tokenizer(post_processor=request.param == "with post-processor")
    return Encoder(describe(write_model(tmp_path_factory.mktemp("model"), built=built)))


def upstream(text: str) -> list[int]:
    """What transformers computes: the tokenizer with its post-processor."""
    ids: list[int] = LIBRARY.encode(text).ids
    return ids


def one(encoder: Encoder, text: str | list[int], *, prompt: str = "") -> list[int]:
    encoded = encoder.encode([text], prompt=prompt, truncate=Truncation.NONE)[0]
    assert not encoded.truncated
    assert encoded.ids.dtype == np.int32
    ids: list[int] = encoded.ids.tolist()
    return ids


def cut(encoder: Encoder, text: str | list[int], *, prompt: str = "") -> EncodedText:
    return encoder.encode([text], prompt=prompt, truncate=Truncation.END)[0]


def refusal(encoder: Encoder, text: str | list[int], *, prompt: str = "") -> CallerError:
    with pytest.raises(CallerError) as caught:
        encoder.encode(["fine", text], prompt=prompt, truncate=Truncation.NONE)
    return caught.value


class TestEndOfText:
    def test_real_texts_are_encoded_as_upstream(self, encoder: Encoder) -> None:
        texts = [text[:300] for text in passages("xquad/xquad.zh.json")[:50]]
        encoded = encoder.encode(texts, prompt="", truncate=Truncation.END)
        for text, result in zip(texts, encoded, strict=True):
            ids = upstream(text)
            assert result.ids.tolist() == (
                ids if len(ids) <= LIMIT else [*ids[: LIMIT - 1], END_ID]
            )

    @settings(deadline=None)
    @given(
        st.lists(
            st.text(max_size=8) | st.sampled_from([END, "<|im_end|>", "<think>", " "]), max_size=8
        )
        .map("".join)
        .filter(lambda text: text.strip() != "")
    )
    def test_stands_exactly_once_at_the_end_of_any_text(self, encoder: Encoder, text: str) -> None:
        ids = one(encoder, text)
        assert ids[-1] == END_ID
        assert len(ids) == 1 or ids[-2] != END_ID
        assert len(ids) <= LIMIT

    @settings(deadline=None)
    @given(st.lists(st.integers(0, VOCABULARY - 1) | st.just(END_ID), min_size=1, max_size=600))
    def test_stands_exactly_once_at_the_end_of_any_ids(
        self, encoder: Encoder, ids: list[int]
    ) -> None:
        encoded = cut(encoder, ids).ids
        assert encoded[-1] == END_ID
        assert len(encoded) == 1 or encoded[-2] != END_ID
        assert encoded[:-1].tolist() == ids[: len(encoded) - 1]

    def test_where_the_cut_falls_it_is_not_doubled(self, encoder: Encoder) -> None:
        ids = [1] * (LIMIT - 3) + [END_ID] * 10 + [1] * LIMIT
        assert cut(encoder, ids).ids.tolist() == [1] * (LIMIT - 3) + [END_ID]

    def test_in_endless_repetition_hides_nothing_behind_it(self, encoder: Encoder) -> None:
        for text in ("sea" + END * 5 * LIMIT + "river", [1] + [END_ID] * 5 * LIMIT + [2]):
            assert cut(encoder, text).truncated
            assert refusal(encoder, text).code == "context_length_exceeded"

    @pytest.mark.parametrize("times", [1, 2, 3])
    def test_written_by_the_caller_it_is_not_put_again(self, encoder: Encoder, times: int) -> None:
        assert one(encoder, "the river" + END * times) == upstream("the river")
        ids = upstream("the river")[:-1]
        assert one(encoder, ids + [END_ID] * times) == upstream("the river")

    def test_in_the_middle_of_a_text_it_is_read_as_upstream(self, encoder: Encoder) -> None:
        assert one(encoder, f"river{END}sea") == upstream(f"river{END}sea")

    def test_alone_it_is_a_text(self, encoder: Encoder) -> None:
        assert one(encoder, END) == one(encoder, [END_ID]) == [END_ID]


class TestPrompt:
    def test_the_prompt_goes_before_the_text_as_one_string(self, encoder: Encoder) -> None:
        prompt = instruction_prompt("Represent this document for retrieval:")
        assert one(encoder, "the sea", prompt=prompt) == upstream(prompt + "the sea")

    def test_the_prompt_goes_before_ids_as_ids(self, encoder: Encoder) -> None:
        prompt = instruction_prompt("find")
        ids = upstream("the sea")[:-1]
        assert one(encoder, ids, prompt=prompt) == [*upstream(prompt)[:-1], *ids, END_ID]

    def test_ids_without_a_prompt_are_left_alone(self, encoder: Encoder) -> None:
        """Two halves of a word would be one token if ids were decoded and encoded again."""
        halves = [*upstream("riv")[:-1], *upstream("er")[:-1]]
        assert halves != upstream("river")[:-1]
        assert one(encoder, halves) == [*halves, END_ID]

    def test_a_prompt_that_leaves_no_room_for_the_text_is_refused(self, encoder: Encoder) -> None:
        prompt = instruction_prompt("river " * LIMIT)
        with pytest.raises(CallerError, match="leaves no room") as caught:
            cut(encoder, "the sea", prompt=prompt)
        assert caught.value.param == "instruction"

    def test_strings_and_ids_may_stand_side_by_side(self, encoder: Encoder) -> None:
        encoded = encoder.encode(["sea", [1, 2], "river"], prompt="a ", truncate=Truncation.NONE)
        front = upstream("a ")[:-1]
        assert [one.ids.tolist() for one in encoded] == [
            upstream("a sea"),
            [*front, 1, 2, END_ID],
            upstream("a river"),
        ]


class TestLength:
    def test_one_less_than_the_limit_and_the_limit_fit(self, encoder: Encoder) -> None:
        for tokens in (LIMIT - 1, LIMIT):
            assert len(one(encoder, "1" * (tokens - 1))) == tokens
            assert len(one(encoder, [1] * (tokens - 1))) == tokens

    def test_one_more_is_refused_with_count_limit_and_place(self, encoder: Encoder) -> None:
        for text in ("1" * LIMIT, [1] * LIMIT):
            error = refusal(encoder, text)
            assert error.code == "context_length_exceeded"
            assert error.param == "input[1]"
            assert f"`input[1]` has {LIMIT + 1}" in error.message
            assert f"maximum context length is {LIMIT} tokens" in error.message

    def test_one_more_is_cut_before_the_end_of_text_token_if_wanted(self, encoder: Encoder) -> None:
        for text in ("1" * LIMIT, [1] * LIMIT):
            encoded = cut(encoder, text)
            assert encoded.truncated
            assert len(encoded.ids) == LIMIT
            assert encoded.ids[-1] == END_ID

    def test_what_fits_is_not_called_truncated(self, encoder: Encoder) -> None:
        assert not cut(encoder, "1" * (LIMIT - 1)).truncated
        assert not cut(encoder, "1" * (LIMIT - 1) + END).truncated
        assert not cut(encoder, [1] * (LIMIT - 1) + [END_ID]).truncated

    def test_a_cut_text_begins_as_the_whole_one(self, encoder: Encoder) -> None:
        text = "\n".join(passages("xquad/xquad.de.json"))
        assert cut(encoder, text).ids.tolist() == [*upstream(text)[: LIMIT - 1], END_ID]

    def test_the_prompt_counts(self, encoder: Encoder) -> None:
        prompt = instruction_prompt("find")
        assert refusal(encoder, "1" * (LIMIT - 1), prompt=prompt).param == "input[1]"

    def test_far_too_long_texts_are_not_counted_to_the_end(self, encoder: Encoder) -> None:
        assert f"more than {4 * LIMIT}" in refusal(encoder, "the sea " * 500_000).message


class TestRefusals:
    def test_empty_texts(self, encoder: Encoder) -> None:
        error = refusal(encoder, "")
        assert (error.param, error.code) == ("input[1]", "empty_string")

    @pytest.mark.parametrize("blank", [" ", "\n\t\r ", "\u3000", "\u2028"])
    def test_white_space_is_a_text(self, encoder: Encoder, blank: str) -> None:
        assert one(encoder, blank) == upstream(blank)

    @pytest.mark.parametrize("invisible", ["\u200b", "\ufeff", "\x00", "\u0301"])
    def test_invisible_characters_are_a_text(self, encoder: Encoder, invisible: str) -> None:
        assert one(encoder, invisible) == upstream(invisible)

    @pytest.mark.parametrize("wrong", [-1, VOCABULARY, 2**31 - 1, 2**31, 2**63, -(2**70)])
    def test_ids_outside_the_embedding_table(self, encoder: Encoder, wrong: int) -> None:
        error = refusal(encoder, [1, 2, wrong, 3])
        assert error.param == "input[1]"
        assert f"token id {wrong} at position 2"[:40] in error.message
        assert f"from 0 to {VOCABULARY - 1}" in error.message

    def test_ids_beyond_what_is_computed_are_not_looked_at(self, encoder: Encoder) -> None:
        assert cut(encoder, [1] * (2 * LIMIT) + [-1]).truncated

    def test_ids_at_the_bounds_are_fine(self, encoder: Encoder) -> None:
        assert one(encoder, [0, VOCABULARY - 1]) == [0, VOCABULARY - 1, END_ID]

    @pytest.mark.parametrize("text", ["a\ud800b", "\udc00"])
    def test_halves_of_surrogate_pairs(self, encoder: Encoder, text: str) -> None:
        error = refusal(encoder, text)
        assert error.param == "input[1]"
        assert "half of a surrogate pair" in error.message

    def test_no_ids(self, encoder: Encoder) -> None:
        assert refusal(encoder, []).code == "empty_array"


def test_threads_may_share_an_encoder(encoder: Encoder) -> None:
    texts = [f"the river {number} flows to the sea" for number in range(200)]
    alone = [one(encoder, text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: one(encoder, text), texts)) == alone


def test_the_limit_may_be_set(tmp_path: Path) -> None:
    encoder = Encoder(describe(write_model(tmp_path), max_tokens=3))
    assert len(cut(encoder, "11111").ids) == 3
    assert json.loads((tmp_path / "config.json").read_text())["max_position_embeddings"] == LIMIT
