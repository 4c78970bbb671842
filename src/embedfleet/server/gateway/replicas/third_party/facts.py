"""What a third-party engine reports about itself, and what makes it unfit for a pool. Pure.

`dialects.py` translates each engine's own spelling into these facts.
"""

from __future__ import annotations

from dataclasses import dataclass

from embedfleet.fleet.providers.engine_commands import TEI_POOLING
from embedfleet.vocabulary import ModelIdentity, Precision, Task

DEFAULT_BATCH_TOKENS = 8_192
"""For engines that do not say what they compute at once: enough to fill a GPU."""


@dataclass(frozen=True, slots=True)
class Facts:
    """An engine in its own words."""

    engine: str
    """Its name, with the version if it reports one."""
    model: str
    """The name that requests must give."""
    serving: str
    """Everything it says about which weights it serves; another value is another model."""
    max_tokens: int | None = None
    """Longest text that it takes whole."""
    batch_tokens: int | None = None
    """Tokens that it computes at once."""
    max_texts: int | None = None
    """Most texts in one request."""
    width: int | None = None
    vocabulary: int | None = None
    precision: Precision | None = None
    pooling: str | None = None
    """Which states become a vector, in TEI's words; None where it does not say."""
    generates: bool = False
    """Whether it was started to generate text."""
    trouble: str = ""
    """Why it can't serve the pool's task at all, in its own case."""


def unfit(facts: Facts, identity: ModelIdentity, pooling: str) -> str:
    """What makes an engine unable to serve this model as promised; empty when nothing does.

    `pooling` is the model's, one of `Pooling` or another, of which nothing can be said.
    """
    if facts.trouble:
        return facts.trouble
    embeds = identity.task is Task.EMBED
    if embeds and facts.width is not None and facts.width != identity.width:
        return f"its vectors have {facts.width} dimensions, the pool's {identity.width}"
    wanted = TEI_POOLING.get(pooling, facts.pooling)
    if embeds and facts.pooling not in {None, wanted}:
        return f"it pools by {facts.pooling}: start it with --pooling {wanted}"
    if facts.vocabulary is not None and facts.vocabulary != identity.vocabulary:
        return (
            f"its model has {facts.vocabulary} token ids, the pool's {identity.vocabulary}: "
            "another model, or another file of it"
        )
    if facts.max_tokens is not None and facts.max_tokens < identity.max_tokens:
        return (
            f"it takes texts of at most {facts.max_tokens} tokens, this pool promises "
            f"{identity.max_tokens}: start it with a longer context (see `embedfleet engines`), or "
            f"set engine.max_tokens to {facts.max_tokens}"
        )
    return ""


def changed(before: Facts, now: Facts) -> str:
    """What to say when an engine serves something else than it did; empty when it does not."""
    if before.serving == now.serving:
        return ""
    return (
        f"its model changed from {before.serving} to {now.serving}: "
        "vectors of the two do not belong together. Start the old one again, or restart the "
        "gateway if the new one is meant"
    )
