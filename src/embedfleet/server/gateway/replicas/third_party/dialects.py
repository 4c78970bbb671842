"""Dialects of third-party engines: how each describes itself and how it is asked.

Which pages of an engine are read, and what they mean. Pages are untrusted: any field may be missing
or malformed. `asking.py` has the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from embedfleet.models.reranker import Scoring
from embedfleet.server.gateway.replicas.third_party import asking
from embedfleet.server.gateway.replicas.third_party.asking import (
    Asking,
    Form,
    ScoreAsking,
    embeddings,
)
from embedfleet.server.gateway.replicas.third_party.facts import Facts
from embedfleet.transport.untrusted import shown
from embedfleet.vocabulary import ModelIdentity, Precision, Task, UnfitReplicaError

Page: TypeAlias = Any
"""Parsed JSON; None for a page that does not exist or is none."""

MODELS, INFO = "/v1/models", "/info"
TELLING = (MODELS, INFO)
"""Pages from which an engine is recognised."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's manner."""

    name: str
    page: str
    """Fetched at every probe; names the served model."""
    more: tuple[str, ...]
    """Read once, when a gateway meets the engine."""
    read: Callable[[Mapping[str, Page], ModelIdentity], Facts]
    """Facts from the pages that could be read; the identity is that of the pool's model."""
    scores: Callable[[Scoring, Facts], tuple[ScoreAsking, ...]]
    """How scores are asked for; of several ways the first that works is kept. Raises
    UnfitReplicaError where the engine can't compute a reranker as the pool promises."""
    embeds: tuple[Asking, ...] = (embeddings(Form.IDS, "base64"),)
    """How vectors are asked for, likewise. Floats or base64, what comes is read either way."""
    too_long: str = ""
    """Words of an error that means: this text is longer than it was started for."""


def recognise(pages: Mapping[str, Page]) -> Dialect | None:
    """Which engine answers like this; None when nothing known does."""
    owner = str(_first(pages.get(MODELS)).get("owned_by"))
    known = {"sglang": SGLANG, "vllm": VLLM, "llamacpp": LLAMACPP, "embedfleet": GATEWAY}
    if owner in known:
        return known[owner]
    info = pages.get(INFO)
    if isinstance(info, dict) and {"model_id", "model_type"} <= info.keys():
        return TEI
    return OPENAI if _first(pages.get(MODELS)) else None


_MOST = 2**31
"""No count is as large."""


# -- reading pages --------------------------------------------------------------------------


def _object(page: Page) -> dict[str, Any]:
    return page if isinstance(page, dict) else {}


def _served(page: Page) -> list[dict[str, Any]]:
    data = _object(page).get("data")
    return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []


def _first(page: Page) -> dict[str, Any]:
    return next(iter(_served(page)), {})


def _wanted(page: Page, name: str) -> dict[str, Any]:
    """The model of this name, by its last part if need be; else the first one."""
    rows = _served(page)
    for same in (str.__eq__, lambda a, b: a.rpartition("/")[2] == b.rpartition("/")[2]):
        for row in rows:
            if same(str(row.get("id")), name):
                return row
    return next(iter(rows), {})


def _count(value: object) -> int | None:
    """A number of tokens, texts or dimensions; None for anything else."""
    return value if type(value) is int and 0 < value < _MOST else None


def _said(value: object) -> str:
    """As part of a line: no engine writes lines of its own into logs."""
    return shown(str(value))


def _callable_as(value: object) -> str:
    """The name that requests must give: it goes back to the engine as it came."""
    name = str(value)
    if shown(name) != name:
        raise UnfitReplicaError(f"its model has an invalid name: {shown(name, 80)}")
    return name


def _least(*values: object) -> int | None:
    return min((count for value in values if (count := _count(value))), default=None)


def _sglang(pages: Mapping[str, Page], identity: ModelIdentity) -> Facts:
    info, server = _object(pages.get("/model_info")), _object(pages.get("/server_info"))
    model = _first(pages.get(MODELS))
    if str(server.get("quantization") or "").startswith(("fp8", "w8a8_fp8", "modelopt_fp8")):
        precision = Precision.FP8
    elif server.get("quantization"):
        precision = Precision.INT8
    else:
        precision = Precision.F32 if server.get("dtype") == "float32" else Precision.BF16
    return Facts(
        engine=_said(f"sglang {server.get('version', '')}"),
        model=_callable_as(
            model.get("id") or server.get("served_model_name") or info.get("model_path")
        ),
        serving=_said(f"{info.get('model_path')} (weights {info.get('weight_version')})"),
        max_tokens=_count(model.get("max_model_len")),
        batch_tokens=_count(server.get("max_prefill_tokens")),
        precision=precision,
        generates=bool(info.get("is_generation")),
        trouble=_sglang_trouble(info, server, identity.task),
    )


def _sglang_trouble(info: dict[str, Any], server: dict[str, Any], task: Task) -> str:
    if task is Task.RERANK:
        several = server.get("enable_mis")
        return "it joins the pairs of a request: start it without --enable-mis" if several else ""
    if info.get("is_generation"):
        return "it generates text: start it with --is-embedding"
    return ""


def _vllm(pages: Mapping[str, Page], identity: ModelIdentity) -> Facts:
    model = _wanted(pages.get(MODELS), identity.name)
    return Facts(
        engine=_said(f"vllm {_object(pages.get('/version')).get('version', '')}"),
        model=_callable_as(model.get("id")),
        serving=_said(f"{model.get('id')} ({model.get('root')})"),
        max_tokens=_count(model.get("max_model_len")),
    )


def _tei(pages: Mapping[str, Page], identity: ModelIdentity) -> Facts:
    info = _object(pages.get(INFO))
    served = _object(info.get("model_type"))
    kind = served.get("embedding")
    pooling = _object(kind).get("pooling")
    trouble = ""
    if identity.task is Task.RERANK:
        if "reranker" not in served:
            trouble = f"it serves {_said(next(iter(served), 'nothing'))}, not a reranker"
    elif kind is None:
        trouble = "it serves a classifier or reranker, not an embedding model"
    return Facts(
        engine=_said(f"tei {info.get('version', '')}"),
        model=_callable_as(info.get("model_id")),
        serving=_said(f"{info.get('model_id')} (revision {info.get('model_sha')})"),
        # What is longer is cut off without a word unless it was started otherwise.
        max_tokens=_least(info.get("max_input_length"), info.get("max_batch_tokens")),
        batch_tokens=_count(info.get("max_batch_tokens")),
        max_texts=_count(info.get("max_client_batch_size")),
        precision=Precision.F32 if info.get("model_dtype") == "float32" else Precision.BF16,
        pooling=_said(pooling).replace("_", "-") if pooling is not None else None,
        trouble=trouble,
    )


def _llamacpp(pages: Mapping[str, Page], _identity: ModelIdentity) -> Facts:
    model, props = _first(pages.get(MODELS)), _object(pages.get("/props"))
    meta = _object(model.get("meta"))
    kind = str(props.get("model_ftype", "")).upper()
    precision = None
    if kind:
        precision = Precision.INT8
        if "Q" not in kind:
            precision = Precision.BF16 if "F16" in kind else Precision.F32
    return Facts(
        engine=_said(f"llama.cpp {props.get('build_info', '')}"),
        model=_callable_as(model.get("id")),
        serving=_said(
            f"{model.get('id')} ({meta.get('n_params')} parameters, {meta.get('size')} bytes)"
        ),
        max_tokens=_least(
            _object(props.get("default_generation_settings")).get("n_ctx"), meta.get("n_ctx_train")
        ),
        width=_count(meta.get("n_embd")),
        vocabulary=_count(meta.get("n_vocab")),
        precision=precision,
    )


def _gateway(pages: Mapping[str, Page], identity: ModelIdentity) -> Facts:
    """It may serve embedding models and rerankers at once, and lists which are which."""
    reranks = identity.task is Task.RERANK
    rows = [
        row for row in _served(pages.get(MODELS)) if (row.get("task") == Task.RERANK) is reranks
    ]
    model = _wanted({"data": rows}, identity.name)
    if not rows:
        trouble = "it serves no reranker" if reranks else "it serves rerankers alone"
        return Facts("embedfleet gateway", "", trouble, trouble=trouble)
    return Facts(
        engine="embedfleet gateway",
        model=_callable_as(model.get("id")),
        serving=_said(f"{model.get('id')} of {model.get('dimensions') or 'no'} dimensions"),
        max_tokens=_count(model.get("max_tokens")),
        width=_count(model.get("dimensions")),
    )


def _openai(pages: Mapping[str, Page], identity: ModelIdentity) -> Facts:
    model = _wanted(pages.get(MODELS), identity.name)
    return Facts(
        engine="OpenAI-compatible",
        model=_callable_as(model.get("id")),
        serving=_said(model.get("id")),
    )


SGLANG = Dialect(
    "sglang",
    "/model_info",
    ("/server_info", MODELS),
    _sglang,
    asking.sglang,
    (embeddings(Form.IDS, "float"),),
)
"""Ignores `encoding_format` and always writes floats; ids outside its vocabulary kill it."""
VLLM = Dialect("vllm", MODELS, ("/version",), _vllm, asking.vllm)
TEI = Dialect("tei", INFO, (), _tei, asking.tei, (embeddings(Form.TEXT, "base64"),))
"""Decodes ids to text, encodes that again and so adds a second end-of-text token: it gets text."""
LLAMACPP = Dialect(
    "llamacpp", MODELS, ("/props",), _llamacpp, asking.llamacpp, too_long="too large to process"
)
GATEWAY = Dialect("embedfleet", MODELS, (), _gateway, asking.gateway)
OPENAI = Dialect(
    "openai",
    MODELS,
    (),
    _openai,
    asking.openai,
    (
        embeddings(Form.IDS, "base64"),
        embeddings(Form.TEXT, "base64"),
        embeddings(Form.TEXT, "float"),
    ),
)
