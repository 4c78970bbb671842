"""The contract on right requests: every form of input, every field, order, usage and exactness."""

from __future__ import annotations

import json

import numpy as np

from tests.contract.check import (
    Inapplicable,
    accepted,
    check,
    different,
    expect,
    same,
    unit_length,
)
from tests.contract.endpoint import Endpoint

TEXTS = [
    "The river rises in the mountains and flows to the sea.",
    "Bread is made of flour, water, salt and yeast.",
    "为什么天空是蓝色的?",
    "A compiler turns source code into machine code.",
    "Die Eisenbahn fährt heute nicht.",
]

UNICODE = {
    "emoji": "👩‍👩‍👧‍👦 went to the beach 🏖️",
    "outside the basic plane": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 and 𠜎𠜱",
    "right to left": "مرحبا بالعالم, שלום עולם",
    "combining marks": "e\u0301a\u0308o\u0302 Z\u0351\u036b\u0343a\u0300l\u0334g\u0321o\u0310",
    "zero width": "zero\u200bwidth\u200d\ufeffjoined",
    "only invisible": "\u200b\u2060",
    "control characters": "a\x00b\x01c\x7f",
    "line ends": "one\r\ntwo\rthree\u2028four",
    "unassigned": "\U000e0fff\uffff",
}


@check
def a_string_is_one_text(service: Endpoint) -> None:
    vectors = accepted(service.embed(TEXTS[0]), texts=1).vectors
    unit_length(vectors)


@check
def a_list_of_strings_is_answered_in_order(service: Endpoint) -> None:
    answer = accepted(service.embed(TEXTS), texts=len(TEXTS))
    alone = np.concatenate([accepted(service.embed(text)).vectors for text in TEXTS])
    same(answer.vectors, alone, "a text has another vector among others than alone")
    indices = [one["index"] for one in answer.json["data"]]
    expect(indices == list(range(len(TEXTS))), f"index must count up from 0, got {indices}")
    backwards = accepted(service.embed(TEXTS[::-1])).vectors
    same(backwards[::-1], alone, "the order of texts is not kept")


@check
def a_list_of_one_string_is_like_the_string(service: Endpoint) -> None:
    same(
        accepted(service.embed([TEXTS[0]]), texts=1).vectors,
        accepted(service.embed(TEXTS[0])).vectors,
        "list and string differ",
    )


@check
def equal_texts_in_one_request_have_equal_vectors(service: Endpoint) -> None:
    vectors = accepted(service.embed([TEXTS[0], TEXTS[1], TEXTS[0]]), texts=3).vectors
    same(vectors[:1], vectors[2:], "equal texts differ")
    different(vectors[:1], vectors[1:2], "different texts do not differ")


@check
def a_list_of_token_ids_is_one_text(service: Endpoint) -> None:
    accepted(service.embed([5, 6, 7, 8]), texts=1)


@check
def a_list_of_lists_of_token_ids_is_answered_in_order(service: Endpoint) -> None:
    lists = [[5, 6, 7, 8], [9], [8, 7, 6, 5, 4]]
    together = accepted(service.embed(lists), texts=3).vectors
    alone = np.concatenate([accepted(service.embed(ids)).vectors for ids in lists])
    same(together, alone, "ids have another vector among others than alone")


@check
def the_answer_has_all_of_openai_s_fields(service: Endpoint) -> None:
    answer = accepted(service.embed(TEXTS[:2])).json
    expect(answer["object"] == "list", "`object` must be list")
    expect(answer["model"] == service.model, f"`model` must be {service.model}")
    for one in answer["data"]:
        expect(one["object"] == "embedding", "`data[].object` must be embedding")
    usage = answer["usage"]
    expect(usage["total_tokens"] == usage["prompt_tokens"] > 0, f"wrong usage: {usage}")


@check
def usage_is_the_sum_over_the_texts(service: Endpoint) -> None:
    alone = [accepted(service.embed(text)).tokens for text in TEXTS]
    together = accepted(service.embed(TEXTS)).tokens
    expect(together == sum(alone), f"{alone} alone, {together} together")


@check
def usage_counts_every_token_id(service: Endpoint) -> None:
    one, four = (accepted(service.embed([5] * count)).tokens for count in (1, 4))
    expect(four - one == 3, f"one id costs {one} tokens, four cost {four}")


@check
def base64_holds_the_very_floats(service: Endpoint) -> None:
    # The same text may be computed twice, in another batch; some attempt has the same bits.
    for _ in range(3):
        floats = accepted(service.embed(TEXTS, encoding_format="float")).vectors
        packed = accepted(service.embed(TEXTS, encoding_format="base64"))
        kinds = {type(one["embedding"]) for one in packed.json["data"]}
        expect(kinds == {str}, "base64 was asked for, floats came")
        if packed.vectors.tobytes() == floats.tobytes():
            return
    same(packed.vectors, floats, "base64 and floats differ")
    expect(holds=False, complaint="base64 and floats are near, but never the same")


@check
def floats_are_the_default(service: Endpoint) -> None:
    for answer in (service.embed(TEXTS[0]), service.embed(TEXTS[0], encoding_format=None)):
        embedding = accepted(answer).json["data"][0]["embedding"]
        expect(isinstance(embedding, list), "a list of numbers must be the default")
        expect(all(isinstance(one, float) for one in embedding), "not all of them are numbers")


@check
def dimensions_cut_and_renormalise(service: Endpoint) -> None:
    full = accepted(service.embed(TEXTS)).vectors
    width = full.shape[1]
    for wanted in {32, 33, width // 2, width - 1, width}:
        for form in ("float", "base64"):
            answer = service.embed(TEXTS, dimensions=wanted, encoding_format=form)
            vectors = accepted(answer).vectors
            expect(vectors.shape[1] == wanted, f"{vectors.shape[1]} dimensions, not {wanted}")
            unit_length(vectors)
            cut = full[:, :wanted] / np.linalg.norm(full[:, :wanted], axis=1, keepdims=True)
            same(vectors, cut, f"{wanted} dimensions are not the first ones of the full vector")


@check
def null_fields_are_absent_fields(service: Endpoint) -> None:
    nulls = dict.fromkeys(
        [
            "dimensions",
            "encoding_format",
            "user",
            "input_type",
            "instruction",
            "truncate",
        ]
    )
    same(
        accepted(service.embed(TEXTS[0], **nulls)).vectors,
        accepted(service.embed(TEXTS[0])).vectors,
        "null fields change the vector",
    )


@check
def user_and_unknown_fields_change_nothing(service: Endpoint) -> None:
    extra = service.embed(TEXTS[0], user="someone", zz_unknown={"a": [1, None]})
    same(
        accepted(extra).vectors,
        accepted(service.embed(TEXTS[0])).vectors,
        "unknown fields change the vector",
    )


@check
def any_unicode_has_a_vector(service: Endpoint) -> None:
    for name, text in UNICODE.items():
        escaped = accepted(service.embed(text))
        body = json.dumps({"model": service.model, "input": text}, ensure_ascii=False)
        plain = accepted(service.raw(body.encode()))
        unit_length(plain.vectors)
        same(escaped.vectors, plain.vectors, f"{name}: escapes and UTF-8 differ")
        expect(escaped.tokens == plain.tokens, f"{name}: escapes and UTF-8 differ in tokens")


@check
def white_space_around_a_text_is_part_of_it(service: Endpoint) -> None:
    one, other = (accepted(service.embed(text)).tokens for text in ("river", "\n\n river"))
    expect(other > one, "white space before the text was dropped")


@check
def input_type_query_puts_a_prompt_before_the_text(service: Endpoint) -> None:
    plain = accepted(service.embed(TEXTS[0]))
    query = accepted(service.embed(TEXTS[0], input_type="query"))
    expect(query.tokens > plain.tokens, "the prompt is not counted in usage")
    different(query.vectors, plain.vectors, "the query's vector is the plain text's")


@check
def input_type_document_is_accepted(service: Endpoint) -> None:
    unit_length(accepted(service.embed(TEXTS[0], input_type="document")).vectors)


@check
def an_instruction_is_the_model_s_prompt_with_that_task(service: Endpoint) -> None:
    task = "Represent this document for retrieval:"
    instructed = accepted(service.embed(TEXTS[0], instruction=task))
    written_out = accepted(service.embed(f"Instruct: {task}\nQuery:{TEXTS[0]}"))
    same(instructed.vectors, written_out.vectors, "the instruction is put in another way")
    expect(instructed.tokens == written_out.tokens, "the instruction has other tokens")


@check
def an_end_of_text_token_in_the_text_is_not_doubled(service: Endpoint) -> None:
    plain = accepted(service.embed(TEXTS[0]))
    by_hand = accepted(service.embed(TEXTS[0] + "<|endoftext|>"))
    same(plain.vectors, by_hand.vectors, "the end-of-text token is there twice or missing")
    expect(plain.tokens == by_hand.tokens, "the end-of-text token is counted twice")


@check
def models_are_listed_and_shown(service: Endpoint) -> None:
    listed = service.call("GET", "/models")
    expect(listed.status == 200, f"status {listed.status}")
    expect(listed.json["object"] == "list", "`object` must be list")
    for card in listed.json["data"]:
        expect(
            card["object"] == "model" and {"id", "created", "owned_by"} <= set(card),
            f"a model must have id, object, created and owned_by: {card}",
        )
        shown = service.call("GET", f"/models/{card['id']}")
        expect(shown.status == 200 and shown.json == card, f"{card['id']} is not shown as listed")


@check
def the_width_that_is_told_is_the_vectors(service: Endpoint) -> None:
    if "dimensions" not in service.card:
        raise Inapplicable("the model's card does not tell its width")
    width = accepted(service.embed("x")).vectors.shape[1]
    expect(width == service.card["dimensions"], f"{width} dimensions, {service.card} told")
