"""Resolves the MODEL argument to a local directory: a built-in model, a path, or a hub id.

Only the files that are needed are downloaded. Downloads go through huggingface-hub, with its cache
and its variables (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN). A broken connection resumes
where it broke (in steps of 10 MiB); when the process itself is stopped, complete files are kept and
the current one is downloaded again.
"""

from __future__ import annotations

import errno
import logging
import re
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import embedfleet
from embedfleet.runtime.text_files import reason
from embedfleet.vocabulary import ModelError

BUILTIN = "builtin"
BUILTIN_RERANKER = "builtin-reranker"
_MODELS = Path(embedfleet.__file__).parent / "models"
BUILTIN_DIRECTORY = _MODELS / "builtin"
RERANKER_DIRECTORY = _MODELS / "builtin_reranker"
BUILT_IN = {BUILTIN: BUILTIN_DIRECTORY, BUILTIN_RERANKER: RERANKER_DIRECTORY}
"""The models that ship with embedfleet, by name."""
NEEDED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "*_Pooling/config.json",
    "*_LogitScore/config.json",
    "reranker.json",
)
"""Patterns of the files that we read; the rest of a repository is left where it is."""
NOT_NEEDED = ("onnx/*", "openvino/*", "original/*")
"""Folders that hold the same weights once more, for other programs."""

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_PATH_STARTS = ("/", "./", "../", "~")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model on this machine."""

    directory: Path
    name: str
    """The name by which it is known: the hub id, a built-in model's, or the directory's name."""
    revision: str | None
    """The hub's commit; None for what never came from a hub."""


def resolve(model: str, *, progress: bool) -> ResolvedModel:
    """Return the model's directory, downloading what is missing of a hub id.

    Raises ModelError that says what is wrong with the name or what stood in the way.
    """
    if model in BUILT_IN:
        return builtin(BUILT_IN[model], model)
    try:
        local = Path(model).expanduser()
        if model and local.is_dir():
            directory = local.resolve()
            return ResolvedModel(directory, directory.name, None)
        if local.is_file():
            raise ModelError(f"{model} is a file; a model is a directory, perhaps {local.parent}")
    except (OSError, RuntimeError, ValueError) as error:
        # Too long a name, a folder that may not be read, `~` without a home, a NUL character.
        raise ModelError(f'"{model}" is not a directory: {reason(error)}') from error
    parts = _HUB_ID.fullmatch(model)
    if model.startswith(_PATH_STARTS) or model in {"", ".", ".."} or "\\" in model:
        raise ModelError(f'there is no directory "{model}"')
    if parts is None:
        raise ModelError(
            f'"{model}" is neither a directory here nor a hub id such as '
            f"Qwen/Qwen3-Embedding-0.6B, nor {' or '.join(BUILT_IN)}"
        )
    return _from_hub(parts["id"], parts["revision"], progress=progress)


def local(place: Path) -> ResolvedModel:
    """Return the model in a directory, or a built-in one by its name; nothing is downloaded.

    Raises ModelError.
    """
    name = str(place)
    if place.is_dir():
        return ResolvedModel(place, place.resolve().name, None)
    if name in BUILT_IN:
        return builtin(BUILT_IN[name], name)
    way = f"; `embedfleet model fetch {name}` prints that of a model on the hub"
    raise ModelError(
        f'there is no directory "{name}"'
        + (way if _HUB_ID.fullmatch(name) else f", and {' and '.join(BUILT_IN)} are built in")
    )


def builtin(directory: Path, name: str) -> ResolvedModel:
    """Return a model that ships with embedfleet, from where the package keeps it."""
    if not (directory / "config.json").is_file():
        raise ModelError(f"this installation of embedfleet does not have the model {name}")
    return ResolvedModel(directory, name, None)


def _from_hub(repository: str, revision: str | None, *, progress: bool) -> ResolvedModel:
    try:
        # Imported here because it takes a third of a second, which local models need not wait for.
        from huggingface_hub import constants, set_client_factory, snapshot_download  # noqa: PLC0415
        from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415
    except ValueError as error:
        raise ModelError(f"a variable of the hub's library (HF_…) is invalid: {error}") from error
    set_client_factory(_bounded_client)
    if not constants.is_offline_mode():
        logger.info("looking for %s at %s", repository, constants.ENDPOINT)
    try:
        found = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(NEEDED),
            ignore_patterns=list(NOT_NEEDED),
            tqdm_class=None if progress else partial(tqdm, disable=True),  # type: ignore[arg-type]
        )
    except _failures() as error:
        raise ModelError(explain(error, repository, revision)) from error
    directory = Path(found)
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"{repository} on the hub is not a model that can be read: it has no config.json"
        )
    logger.info("model %s is pinned to revision %s", repository, directory.name)
    return ResolvedModel(directory, repository, directory.name)


def _failures() -> tuple[type[Exception], ...]:
    """What the hub's library raises: also errors of its HTTP client, and of variables for that."""
    from huggingface_hub import errors  # noqa: PLC0415

    client = import_module(errors.HTTPError.__module__)  # type: ignore[attr-defined]
    return (OSError, RuntimeError, ValueError, ImportError, client.HTTPError, client.InvalidURL)


def _bounded_client() -> Any:
    """The client of the hub's library, with a bound on each wait for the network.

    The library waits for an answer without end, and for a connection until the system gives up (two
    minutes), even if the model is in its cache.
    """
    from huggingface_hub import constants  # noqa: PLC0415
    from huggingface_hub.utils._http import default_client_factory  # noqa: PLC0415

    def bound(request: Any) -> None:
        waits = request.extensions["timeout"]
        for part, seconds in waits.items():
            waits[part] = constants.HF_HUB_ETAG_TIMEOUT if seconds is None else seconds

    client = default_client_factory()
    client.event_hooks["request"].append(bound)
    return client


def explain(error: Exception, repository: str, revision: str | None) -> str:
    """Say what a failed download means to the person who asked for it."""
    from huggingface_hub import constants, errors  # noqa: PLC0415

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    transport: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # its client's own
    number = getattr(error, "errno", None)
    match error:
        case errors.GatedRepoError():
            text = (
                f"is gated: accept its terms at {hub}/{repository}, then log in with "
                "`hf auth login` or set HF_TOKEN"
            )
        case errors.RepositoryNotFoundError():
            text = (
                f"is neither a directory here nor a model at {hub} that you may read; "
                "a private one needs HF_TOKEN"
            )
        case errors.RevisionNotFoundError():
            text = f"has no revision {revision} at {hub}"
        case errors.HFValidationError():
            text = f"is not a valid hub id: {error}"
        case errors.LocalEntryNotFoundError() if constants.is_offline_mode():
            text = f"is not complete in the local cache ({cache}), and HF_HUB_OFFLINE is set"
        case _ if number in {errno.ENOSPC, errno.EDQUOT} or "os error 28" in str(error):
            text = f"does not fit: the disk of {cache} is full; HF_HOME can name another place"
        case OSError(filename=str(path), strerror=str(reason)):
            text = f"can't be stored: {reason}: {path}"
        case ImportError() if "socksio" in str(error):
            text = (
                "can't be fetched through a SOCKS proxy (ALL_PROXY) without the package socksio: "
                "install it (`pip install socksio`), or name an HTTP proxy (HTTPS_PROXY)"
            )
        case _ if not isinstance(error, (OSError, RuntimeError, transport)):
            text = (
                f"can't be fetched from {hub}: {_cause(error)}; check the variables HF_… and "
                "…_PROXY, or use what is in the local cache with HF_HUB_OFFLINE=1"
            )
        case _:
            text = (
                f"can't be fetched from {hub} ({_cause(error)}) and is not complete in the local "
                f"cache; without a hub, give a local directory or `{BUILTIN}`"
            )
    return f"{repository} {text}"


def _cause(error: BaseException) -> str:
    """Return the first line of what went wrong first: the hub's library wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
