"""The reranker: the Qwen3 forward pass, and one row that turns the last state into a logit."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.batches import END_ID
from training.model import Attention, Geometry, Qwen3

TABLE_SIZE = 0.1
"""Root mean square of the embedding table that a warm start leaves."""
MATCHING_LAYERS = 2
MATCHING_NOISE = 0.3


class Reranker(Qwen3):
    """`forward` gives a logit for each row.

    In training `matching` gives a logit for each token as well: whether the query has it. It is
    read halfway up, so that the layers above can count what was found.
    """

    def __init__(self, geometry: Geometry, dropout: float = 0.0) -> None:
        super().__init__(geometry, dropout)
        self.score = nn.Linear(geometry.hidden_size, 1, bias=False)
        nn.init.normal_(self.score.weight, std=0.02)
        self.found = nn.Linear(geometry.hidden_size, 1)
        self.half = max(1, geometry.num_hidden_layers // 2)

    def forward(self, ids: Tensor, last: Tensor) -> Tensor:
        rows = torch.arange(ids.shape[0], device=ids.device)
        states = self.hidden(ids)[rows, last].float()
        return states @ self.score.weight[0].float()

    def matching(self, ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the rows, and of their tokens [rows, length]."""
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]].to(x.dtype), self.sin[: ids.shape[1]].to(x.dtype)
        for layer in list(self.layers)[: self.half]:
            x = layer(x, cos, sin)
        found = self.found(functional.rms_norm(x, (x.shape[-1],)))[..., 0]
        for layer in list(self.layers)[self.half :]:
            x = layer(x, cos, sin)
        rows = torch.arange(ids.shape[0], device=ids.device)
        states = self.norm(x)[rows, last].float()
        return states @ self.score.weight[0].float(), found.float()

    def shipped(self) -> dict[str, Tensor]:
        """What is saved: all but what helps in training alone."""
        kept = self.state_dict()
        return {name: tensor for name, tensor in kept.items() if not name.startswith("found.")}


def shared_tokens(ids: Tensor, last: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Which tokens of each document its query has, and which belong to a document.

    The query ends at the first end token, within `longest` tokens.
    """
    place = torch.arange(ids.shape[1], device=ids.device)
    between = (ids == END_ID).int().argmax(1)
    document = (place > between[:, None]) & (place < last[:, None])
    query = ids[:, :longest].masked_fill(place[:longest] >= between[:, None], -1)
    return (ids[:, :, None] == query[:, None, :]).any(-1) & document, document


@torch.no_grad()
def warm(model: Reranker, table: Tensor) -> None:
    """Begin with another model's embedding table, in its strongest directions.

    The square root of their strengths is taken: the few that all tokens share should not drown what
    tells them apart.
    """
    left, strength, _ = torch.linalg.svd(table.float(), full_matrices=False)
    width = model.geometry.hidden_size
    fewer = left[:, :width] * strength[:width].sqrt()
    model.embed_tokens.weight.copy_(fewer * (TABLE_SIZE / fewer.square().mean().sqrt()))


@torch.no_grad()
def look_for_own_token(model: Reranker) -> None:
    """Let half the heads of the first layers look for tokens like their own.

    Queries and keys of a head begin alike, so that it attends to what its token resembles: matching
    is what a reranker is for, and need not be discovered.
    """
    for layer in list(model.layers)[:MATCHING_LAYERS]:
        attention = layer.self_attn
        if not isinstance(attention, Attention):
            raise TypeError(type(attention))
        size = attention.head_dim
        keys = attention.k_proj.weight.view(-1, size, attention.k_proj.in_features)
        queries = attention.q_proj.weight.view(len(keys), -1, *keys.shape[1:])
        half = max(1, len(keys) // 2)
        noise = torch.randn_like(queries[:half]) * keys.std() * MATCHING_NOISE
        queries[:half] = keys[:half, None] + noise
