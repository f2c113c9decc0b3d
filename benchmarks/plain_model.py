"""The plain contestant's model: the shape written down the straightforward way, one matrix for each projection."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


def rope(x, cos, sin):
    """Rotate halves; x (B, H, T, C)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Layer(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        d, q, kv, f = (
            shape.d_model, shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim, shape.ffn_hidden,
        )  # fmt: skip
        self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.q, self.k, self.v = nn.Linear(d, q, bias=False), nn.Linear(d, kv, bias=False), nn.Linear(d, kv, bias=False)
        self.o = nn.Linear(q, d, bias=False)
        self.gate, self.up = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(self, x, cos, sin):
        """(B, T, D) → (B, T, D)."""
        B, T, _ = x.shape
        h = self.norm1(x)
        q, k, v = (p(h).view(B, T, -1, self.shape.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(
            rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True,
            enable_gqa=self.shape.n_heads != self.shape.n_kv_heads,
        )  # fmt: skip
        x = x + self.o(mixed.transpose(1, 2).reshape(B, T, -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class PlainModel(nn.Module):
    """Token ids and targets (B, T) → mean cross-entropy."""

    def __init__(self, shape, seq_len):
        super().__init__()
        self.table = nn.Embedding(shape.vocab_size, shape.d_model)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.n_layers))
        self.norm = nn.RMSNorm(shape.d_model, eps=1e-6)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        if shape.tie_embeddings:
            self.head.weight = self.table.weight
        angles = torch.outer(torch.arange(seq_len), 1e4 ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens, targets):
        """Mean cross-entropy of `targets`, nats per token."""
        x = self.table(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
