"""The OpenAPI description of reranking and of the APIs of Azure, Cohere, TEI, Ollama and Google.

A schema is never stricter than its parser; what a schema can't say, the parser refuses as well.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from embedfleet.api.formats.embedding_request import LEAST_DIMENSIONS, RequestLimits
from embedfleet.api.formats.fields import ROLES
from embedfleet.api.formats.openapi_parts import JSON, body_of, in_path, operation
from embedfleet.api.formats.openapi_schemas import (
    Schema,
    count_of,
    object_of,
    optional,
    reference,
    text_of,
    token_id,
)

ByTag: TypeAlias = dict[str, dict[str, Schema]]
Examples: TypeAlias = dict[str, dict[str, Any]]

QUERY = "How long is the Great Wall?"
DOCUMENTS = ["It is 21,196 km long.", "It was built of stone and earth."]
_CUTS = ["none", "start", "end", "NONE", "START", "END"]
_COHERE_TYPES = ["float", "int8", "uint8", "binary", "ubinary", "base64"]


def contract_paths(model: str, reranker: str | None, embeddings: Schema) -> ByTag:
    """Paths by their tags; `embeddings` is the operation of `/v1/embeddings`. Without a `reranker`
    its routes are described without examples.
    """
    return {
        "Reranking": _reranking(reranker),
        "Azure": _azure(model, embeddings),
        "Cohere": _cohere(model),
        "text-embeddings-inference": _tei(),
        "Ollama": _ollama(model),
        "Google": _google(model),
    }


def contract_schemas(limits: RequestLimits) -> dict[str, Schema]:
    """Schemas of these paths, by name."""
    own = _cohere_schemas(limits) | _tei_schemas() | _ollama_schemas() | _google_schemas(limits)
    return _rerank_schemas(limits) | own


def _reranking(reranker: str | None) -> dict[str, Schema]:
    asked: dict[str, Any] = {"query": QUERY, "documents": DOCUMENTS}
    best = {"top_n": 1, "return_documents": True}
    ranked: Examples = {"two documents": asked, "the best with its text": asked | best}
    bare: Examples = {"as TEI has it": {"query": QUERY, "texts": DOCUMENTS, "return_text": True}}
    scored: Examples = {
        "one query for all": {"text_1": QUERY, "text_2": DOCUMENTS},
        "one query for each": {"text_1": [QUERY, QUERY], "text_2": DOCUMENTS},
    }

    def post(name: str, summary: str, request: str, answer: str, examples: Examples) -> Schema:
        body = body_of(request, examples if reranker else {}, reranker)
        refusal = "RankError" if answer == "Scores" else "AnyRankError"  # TEI ranks alone
        return {"post": operation(name, summary, answer, work=True, body=body, refusal=refusal)}

    rank, score = "Rank documents by relevance to a query", "Score pairs of texts"
    return {
        "/v1/rerank": post("rerank", rank, "RerankRequest", "Ranking", ranked),
        "/v2/rerank": post("rerankV2", f"{rank} (Cohere)", "RerankRequest", "Ranking", ranked),
        "/rerank": post(
            "rerankToo", f"{rank} (also TEI)", "AnyRerankRequest", "AnyRanking", ranked | bare
        ),
        "/v1/score": post("score", score, "ScoreRequest", "Scores", scored),
        "/score": post("scoreToo", score, "ScoreRequest", "Scores", scored),
    }


def _azure(model: str, embeddings: Schema) -> dict[str, Schema]:
    """Azure's paths, and OpenAI's earlier ones, which name the model."""
    version = {
        "name": "api-version",
        "in": "query",
        "description": "Any; what it selects in Azure is the same here.",
        "schema": {"type": "string"},
    }
    content = {
        "schema": reference("DeployedRequest"),
        "examples": {"one-text": {"summary": "one text", "value": {"input": "bread"}}},
    }
    deployed = embeddings | {"requestBody": {"required": True, "content": {JSON: content}}}
    found = {}
    for path, piece, name in (
        ("/openai/deployments/{deployment}/embeddings", "deployment", "createDeployedEmbedding"),
        ("/v1/engines/{engine}/embeddings", "engine", "createEngineEmbedding"),
    ):
        named = in_path(piece, model, "Name of a served model.")
        told = [named, version, *embeddings.get("parameters", [])]
        found[path] = {"post": deployed | {"operationId": name, "parameters": told}}
    plain = embeddings | {"operationId": "createAzureEmbedding"}
    short = embeddings | {"operationId": "createEmbeddingToo"}
    return found | {"/openai/v1/embeddings": {"post": plain}, "/embeddings": {"post": short}}


def _cohere(model: str) -> dict[str, Schema]:
    examples: Examples = {
        "several forms at once": {
            "texts": DOCUMENTS,
            "input_type": "search_document",
            "embedding_types": ["float", "int8"],
        }
    }

    def post(version: str) -> Schema:
        body = body_of("CohereRequest", examples, model)
        name, told = f"cohereEmbed{version.upper()}", f"Create embeddings (Cohere {version})"
        return {
            "post": operation(
                name, told, "CohereEmbeddings", work=True, body=body, refusal="CohereError"
            )
        }

    return {"/v1/embed": post("v1"), "/v2/embed": post("v2")}


def _tei() -> dict[str, Schema]:
    examples: Examples = {
        "one text": {"inputs": "How are you today?"},
        "several texts": {"inputs": DOCUMENTS, "truncate": True},
    }

    def post(name: str) -> Schema:
        body = body_of("TeiRequest", examples, None)
        return operation(
            name, "Create embeddings (TEI)", "TeiVectors", work=True, body=body, refusal="TeiError"
        )

    return {
        "/embed": {"post": post("teiEmbed")},
        "/": {"post": post("teiEmbedToo"), "get": _page()},
        "/info": {"get": operation("teiInfo", "Describe the model (TEI)", "TeiInfo")},
    }


def _page() -> Schema:
    found = operation("root", "Same as /health/ready; browsers get the playground", "Health")
    found["responses"]["200"]["content"]["text/html"] = {"schema": {"type": "string"}}
    return found


def _ollama(model: str) -> dict[str, Schema]:
    def post(name: str, summary: str, schema: str, answer: str, example: dict[str, Any]) -> Schema:
        body = body_of(schema, {"an example": example}, model)
        return {
            "post": operation(
                name,
                summary,
                answer,
                work=answer != "OllamaModel",
                body=body,
                refusal="OllamaError",
            )
        }

    return {
        "/api/embed": post(
            "ollamaEmbed",
            "Create embeddings (Ollama)",
            "OllamaRequest",
            "OllamaVectors",
            {"input": DOCUMENTS},
        ),
        "/api/embeddings": post(
            "ollamaEmbedOne",
            "Create one embedding (Ollama, older form)",
            "OllamaRequestOfOne",
            "OllamaVector",
            {"prompt": "How are you today?"},
        ),
        "/api/show": post(
            "ollamaShow", "Describe a model (Ollama)", "OllamaShown", "OllamaModel", {}
        ),
        "/api/tags": {"get": operation("ollamaTags", "List models (Ollama)", "OllamaModels")},
        "/api/ps": {
            "get": operation("ollamaRunning", "List running models (Ollama)", "OllamaModels")
        },
        "/api/version": {"get": operation("ollamaVersion", "Version (Ollama)", "OllamaVersion")},
    }


def _google(model: str) -> dict[str, Schema]:
    def content(text: str) -> dict[str, Any]:
        return {"content": {"parts": [{"text": text}]}}

    verbs = {
        "embedContent": ("Create one embedding (Google)", content(DOCUMENTS[0])),
        "batchEmbedContents": (
            "Create embeddings (Google)",
            {"requests": [content(each) for each in DOCUMENTS]},
        ),
    }
    found = {}
    for version in ("v1", "v1beta"):
        for verb, (told, example) in verbs.items():
            name = f"{verb}{'Beta' * (version == 'v1beta')}"
            schema, answer = ("GoogleBatch", "GoogleVectors")
            if verb == "embedContent":
                schema, answer = ("GoogleRequest", "GoogleVector")
            body = body_of(schema, {"an example": example}, None)
            asked = operation(name, told, answer, work=True, body=body, refusal="GoogleError")
            named = in_path("name", model, "Name of a served model.")
            asked["parameters"] = [named, *asked.get("parameters", [])]
            found[f"/{version}/models/{{name}}:{verb}"] = {"post": asked}
    listed = operation("googleModels", "List models (Google)", "GoogleModels")
    found["/v1beta/models"] = {"get": listed}
    named = in_path("name", model, "Name of a served model.")
    shown = operation(
        "googleModel",
        "Describe a model (Google)",
        "GoogleModel",
        refusal="GoogleError",
        parameters=[named],
    )
    found["/v1beta/models/{name}"] = {"get": shown}
    return found


def _rerank_schemas(limits: RequestLimits) -> dict[str, Schema]:
    return _pairs_asked(limits) | _pairs_scored()


def _pairs_asked(limits: RequestLimits) -> dict[str, Schema]:
    query = text_of("The query.") | {"minLength": 1}
    document = {"anyOf": [{"type": "string"}, object_of({"text": text_of("")})]}
    several = {"type": "array", "minItems": 1, "maxItems": limits.max_texts}
    listed, with_text = (
        several | {"items": document},
        _flag("Whether to return the documents' texts."),
    )
    fields: Schema = {
        "model": optional({"type": "string", "description": "Left out: the only reranker."}),
        "instruction": optional(
            {
                "type": "string",
                "maxLength": limits.max_instruction_characters,
                "description": "Takes the place of the model's.",
            }
        ),
        "truncate": optional(
            {
                "type": ["boolean", "string"],
                "enum": [True, False, *_CUTS],
                "description": "Which end of over-long documents is cut off; queries never are.",
            }
        ),
        "raw_scores": _flag("Logits in the place of probabilities."),
    }
    best = {"top_n": optional({"type": "integer", "minimum": 1, "description": "How many."})}
    voyage = {
        "top_k": optional({"type": "integer", "minimum": 1, "description": "Voyage's `top_n`."}),
        "truncation": optional({"type": "boolean", "description": "Voyage's `truncate`."}),
    }
    queries = {"anyOf": [query, several | {"items": query}]}
    return {
        "RerankRequest": _request(
            fields | best | voyage | {"return_documents": with_text},
            {"query": query, "documents": listed},
        ),
        "TeiRerankRequest": _request(
            fields | best | {"return_text": with_text}, {"query": query, "texts": listed}
        ),
        "AnyRerankRequest": _either("RerankRequest", "TeiRerankRequest"),
        "ScoreRequest": _request(
            fields, {"text_1": queries, "text_2": {"anyOf": [{"type": "string"}, listed]}}
        ),
    }


def _pairs_scored() -> dict[str, Schema]:
    score: Schema = {"type": "number"}
    ranked = object_of({"index": count_of("The document's place."), "relevance_score": score})
    ranked["properties"]["document"] = object_of({"text": text_of("")})
    bare = object_of({"index": count_of("The text's place."), "score": score})
    bare["properties"]["text"] = text_of("")
    scored = object_of({"index": count_of(""), "score": score})
    head: Schema = {"id": text_of(""), "object": {"const": "list"}, "model": text_of("")}
    used: Schema = {"usage": reference("Usage")}
    error = object_of({"message": text_of(""), "error": object_of({"message": text_of("")})})
    results: Schema = {"type": "array", "items": ranked}
    ranking = object_of(head | {"results": results} | used)
    ranking["properties"]["data"] = results | {
        "description": "The results once more, where `top_k` or `truncation` are in the request."
    }
    return {
        "Ranking": ranking,
        "TeiRanking": {"type": "array", "items": bare},
        "AnyRanking": _either("Ranking", "TeiRanking"),
        "AnyRankError": _either("RankError", "TeiError"),
        "Scores": object_of(head | {"data": {"type": "array", "items": scored}} | used),
        "RankError": error | {"description": "OpenAI's form, and Cohere's beside it."},
    }


def _cohere_schemas(limits: RequestLimits) -> dict[str, Schema]:
    several = {"type": "array", "minItems": 1, "maxItems": limits.max_texts}
    request = _request(
        {
            "model": optional({"type": "string"}),
            "input_type": optional({"type": "string", "enum": list(ROLES)}),
            "output_dimension": optional({"type": "integer", "minimum": LEAST_DIMENSIONS}),
            "embedding_types": optional(
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "string", "enum": _COHERE_TYPES},
                }
            ),
            "truncate": optional({"type": "string", "enum": _CUTS}),
        },
        {"texts": several | {"items": {"type": "string"}}},
    )
    vectors = {"type": ["array", "object"], "description": "By type, or of floats alone in v1."}
    return {
        "CohereRequest": request,
        "CohereEmbeddings": object_of(
            {
                "id": text_of(""),
                "response_type": {"enum": ["embeddings_by_type", "embeddings_floats"]},
                "embeddings": vectors,
                "texts": {"type": "array", "items": {"type": "string"}},
                "meta": {"type": "object", "description": "`scales` are those of integers."},
            }
        ),
        "CohereError": object_of({"message": text_of("")}),
    }


def _tei_schemas() -> dict[str, Schema]:
    return {
        "TeiRequest": _request(
            {
                "truncate": optional({"type": "boolean"}),
                "dimensions": optional({"type": "integer", "minimum": LEAST_DIMENSIONS}),
            },
            {
                "inputs": {
                    "anyOf": [
                        {"type": "string", "minLength": 1},
                        {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "anyOf": [
                                    {"type": "string", "minLength": 1},
                                    token_id(),
                                    {"type": "array", "minItems": 1, "items": token_id()},
                                ]
                            },
                        },
                    ]
                }
            },
        ),
        "TeiTokensRequest": _request(
            {
                "model": optional({"type": "string"}),
                "add_special_tokens": {"type": "boolean"},
            },
            {
                "inputs": {
                    "anyOf": [
                        {"type": "string", "minLength": 1},
                        {"type": "array", "minItems": 1, "items": {"type": "string"}},
                    ]
                }
            },
        ),
        "TeiTokens": {"type": "array", "items": {"type": "array", "items": _spelled()}},
        "AnyTokensRequest": _either("TokenizeRequest", "TeiTokensRequest"),
        "AnyTokens": _either("TokenList", "TeiTokens"),
        "AnyTokensError": _either("Error", "TeiError"),
        "TeiVectors": {"type": "array", "items": _numbers()},
        "TeiInfo": {"type": "object", "required": ["model_id", "max_input_length", "version"]},
        "TeiError": object_of({"error": text_of(""), "error_type": text_of("")}),
    }


def _ollama_schemas() -> dict[str, Schema]:
    text: Schema = {"type": "string", "minLength": 1}
    model = text_of("Name of a served model; it may end in `:latest`.") | {"minLength": 1}
    kept = optional({"type": ["number", "string"], "description": "Models stay loaded here."})
    models = {"type": "array", "items": {"type": "object", "required": ["name", "model"]}}
    texts: Schema = {
        "anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": text}],
        "description": "Without any, there are no vectors.",
    }
    request = _request(
        {
            "input": texts,
            "truncate": optional({"type": "boolean"}),
            "dimensions": optional({"type": "integer", "minimum": LEAST_DIMENSIONS}),
            "keep_alive": kept,
        },
        {"model": model},
    )
    one = _request({"prompt": {"type": ["string", "null"]}, "keep_alive": kept}, {"model": model})
    return {
        "OllamaRequest": request,
        "OllamaRequestOfOne": one,
        "OllamaVectors": object_of(
            {
                "model": text_of(""),
                "embeddings": {"type": "array", "items": _numbers()},
                "prompt_eval_count": count_of("Tokens."),
            }
        ),
        "OllamaVector": object_of({"embedding": {"type": "array", "items": {"type": "number"}}}),
        "OllamaShown": {"type": "object", "properties": {"model": {"type": "string"}}},
        "OllamaModel": {"type": "object", "required": ["details", "model_info", "capabilities"]},
        "OllamaModels": object_of({"models": models}),
        "OllamaVersion": object_of({"version": text_of("")}),
        "OllamaError": object_of({"error": text_of("")}),
    }


def _google_schemas(limits: RequestLimits) -> dict[str, Schema]:
    parts = {"type": "array", "minItems": 1, "items": object_of({"text": text_of("")})}
    content = object_of({"parts": parts})
    tasks = optional({"type": "string", "description": "RETRIEVAL_QUERY or RETRIEVAL_DOCUMENT."})
    width = optional({"type": "integer", "minimum": LEAST_DIMENSIONS})
    fields: Schema = {"taskType": tasks, "outputDimensionality": width}
    one = _request(fields, {"content": content})
    several = {"type": "array", "minItems": 1, "maxItems": limits.max_texts, "items": one}
    vector = object_of({"values": {"type": "array", "items": {"type": "number"}}})
    used: Schema = {"usageMetadata": object_of({"promptTokenCount": count_of("")})}
    error: Schema = {"code": count_of(""), "message": text_of(""), "status": text_of("")}
    return {
        "GoogleRequest": one,
        "GoogleBatch": _request({}, {"requests": several}),
        "GoogleVector": object_of({"embedding": vector} | used),
        "GoogleVectors": object_of({"embeddings": {"type": "array", "items": vector}} | used),
        "GoogleModel": _google_model(),
        "GoogleModels": object_of({"models": {"type": "array", "items": reference("GoogleModel")}}),
        "GoogleError": object_of({"error": object_of(error)}),
    }


def _google_model() -> Schema:
    return object_of(
        {
            "name": text_of("`models/` and what requests name."),
            "version": text_of(""),
            "displayName": text_of(""),
            "inputTokenLimit": count_of(""),
            "outputTokenLimit": count_of(""),
            "supportedGenerationMethods": {"type": "array", "items": {"type": "string"}},
        }
    )


def _spelled() -> Schema:
    place = {"type": ["integer", "null"], "description": "In characters; null of special ones."}
    return object_of(
        {
            "id": token_id(),
            "text": text_of(""),
            "special": {"type": "boolean"},
            "start": place,
            "stop": place,
        }
    )


def _either(one: str, other: str) -> Schema:
    return {"anyOf": [reference(one), reference(other)]}


def deployed_request(embedding_request: Schema) -> Schema:
    """The body where the path names the model."""
    return embedding_request | {"required": ["input"]}


def _request(fields: Schema, needed: Schema) -> Schema:
    return {"type": "object", "properties": needed | fields, "required": list(needed)}


def _flag(description: str) -> Schema:
    return optional({"type": "boolean", "description": description})


def _numbers() -> Schema:
    return {"type": "array", "minItems": 1, "items": {"type": "number"}}
