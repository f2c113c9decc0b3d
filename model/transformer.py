"""A Llama-style decoder: RMSNorm, rotary embedding, grouped-query attention, SwiGLU, tied or untied head.

Letters in tensor names: B sequences, T positions, D d_model, H query heads, K key/value heads, C head_dim,
F ffn_hidden, V vocabulary. The mathematics is that of Hugging Face's LlamaForCausalLM (eps 1e-6, theta 10,000,
rotation by halves), with the q, k, v and the gate, up projections fused; a parametrization may add two multipliers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sweeper.model.attention import causal_attention
from sweeper.model.loss import Loss, full_loss, value_of
from sweeper.model.parametrization import Parametrization, standard
from sweeper.model.shape import NORM_EPS, ROPE_THETA, Shape


class RMSNorm(nn.Module):
    """x · g / rms(x) · scale over the last dimension, computed in fp32 (1910.07467)."""

    def __init__(self, size: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(…, size) → (…, size), in the input's dtype."""
        wide = x.float()
        inverse_rms = torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)
        wide = wide * (inverse_rms if self.scale == 1 else inverse_rms * self.scale)
        return (wide * self.weight).to(x.dtype)


def rotary_tables(seq_len: int, head_dim: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding (2104.09864), each (seq_len, head_dim) in fp32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles_TC = torch.outer(torch.arange(seq_len, dtype=torch.float32, device=device), ROPE_THETA**-exponents)
    angles_TC = torch.cat((angles_TC, angles_TC), dim=-1)
    return angles_TC.cos(), angles_TC.sin()


def rotate(x_BHTC: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Rotate the channel pairs (i, i + C/2) of each head by its position's angles."""
    first, second = x_BHTC.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHTC.float() * cos_TC + turned * sin_TC).to(x_BHTC.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention (2305.13245); query head h reads key/value head h // (H/K)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.n_heads, shape.n_kv_heads, shape.head_dim
        inner = self.heads * self.head_dim
        self.qkv = nn.Linear(shape.d_model, inner + 2 * self.kv_heads * self.head_dim, bias=False)
        self.out = nn.Linear(inner, shape.d_model, bias=False)

    def forward(self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        B, T, _ = x_BTD.shape
        heads = (self.heads, self.kv_heads, self.kv_heads)
        qkv = self.qkv(x_BTD).view(B, T, sum(heads), self.head_dim).transpose(1, 2)
        q_BHTC, k_BKTC, v_BKTC = qkv.split(heads, dim=1)
        mixed_BHTC = causal_attention(rotate(q_BHTC, cos_TC, sin_TC), rotate(k_BKTC, cos_TC, sin_TC), v_BKTC)
        out_BTD: Tensor = self.out(mixed_BHTC.transpose(1, 2).reshape(B, T, -1))
        return out_BTD


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (2002.05202)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = nn.Linear(shape.d_model, 2 * shape.ffn_hidden, bias=False)
        self.down = nn.Linear(shape.ffn_hidden, shape.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        out_BTD: Tensor = self.down(F.silu(gate_BTF) * up_BTF)
        return out_BTD


class Block(nn.Module):
    """One pre-norm layer: attention and FFN, each × `branch` added to the residual stream."""

    def __init__(self, shape: Shape, *, branch: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.attention_norm = RMSNorm(shape.d_model)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.d_model)
        self.ffn = SwiGLU(shape)

    def forward(self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        attended_BTD = self.attention(self.attention_norm(x_BTD), cos_TC, sin_TC)
        x_BTD = torch.add(x_BTD, attended_BTD, alpha=self.branch)
        return torch.add(x_BTD, self.ffn(self.ffn_norm(x_BTD)), alpha=self.branch)


class Head(nn.Module):
    """The final norm, the output projection and its loss; the weight is the input table's when tied."""

    def __init__(
        self, shape: Shape, table: Tensor, *, input_scale: float = 1.0, cross_entropy: Loss = full_loss
    ) -> None:
        super().__init__()
        self.norm = RMSNorm(shape.d_model, scale=input_scale)
        self.weight: Tensor = table if shape.tie_embeddings else nn.Parameter(torch.empty_like(table))
        self.cross_entropy = cross_entropy

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → logits (B, T, V)."""
        return F.linear(self.norm(x_BTD), self.weight)

    def loss(self, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy, nats per token, in fp32."""
        return self.cross_entropy(self.norm(x_BTD).flatten(0, 1), self.weight, targets_BT.flatten())

    def loss_value(self, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """The same for who doesn't differentiate it."""
        return value_of(self.cross_entropy, self.norm(x_BTD).flatten(0, 1), self.weight, targets_BT.flatten())


class Transformer(nn.Module):
    """The decoder. `seq_len` sizes the rotary tables, which are buffers and no parameters."""

    cos_TC: Tensor  # noqa: N815
    sin_TC: Tensor  # noqa: N815

    def __init__(
        self,
        shape: Shape,
        *,
        seq_len: int,
        parametrization: Parametrization | None = None,
        cross_entropy: Loss = full_loss,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.parametrization = parametrization or standard(shape)
        self.embedding = nn.Embedding(shape.vocab_size, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape, branch=self.parametrization.branch) for _ in range(shape.n_layers))
        self.head = Head(
            shape,
            self.embedding.weight,
            input_scale=self.parametrization.head_input,
            cross_entropy=cross_entropy,
        )
        cos_TC, sin_TC = rotary_tables(seq_len, shape.head_dim)
        self.register_buffer("cos_TC", cos_TC, persistent=False)
        self.register_buffer("sin_TC", sin_TC, persistent=False)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Token ids (B, T) → residual stream after the last block (B, T, D)."""
        T = tokens_BT.shape[1]
        x_BTD: Tensor = self.embedding(tokens_BT)
        cos_TC, sin_TC = self.cos_TC[:T], self.sin_TC[:T]
        for block in self.blocks:
            x_BTD = block(x_BTD, cos_TC, sin_TC)
        return x_BTD

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Token ids (B, T) → logits (B, T, V)."""
        logits_BTV: Tensor = self.head(self.hidden(tokens_BT))
        return logits_BTV

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy of `targets_BT` (B, T), nats per token."""
        return self.head.loss(self.hidden(tokens_BT), targets_BT)

    def loss_value(self, tokens_BT: Tensor, targets_BT: Tensor, *, first: int | None = None) -> Tensor:
        """The same for who doesn't differentiate it; with gradients enabled, through the graphs of training.

        Of the `first` sequences alone where that is given, in fp64: the rest fill up a batch to the size that those
        graphs are for. To the head they are zero, where every token has probability 1/V and costs ln V.
        """
        x_BTD, B = self.hidden(tokens_BT), len(tokens_BT)
        if first is None or first == B:
            return self.head.loss_value(x_BTD, targets_BT)
        x_BTD = torch.cat((x_BTD[:first], torch.zeros_like(x_BTD[first:])))
        mean = self.head.loss_value(x_BTD, targets_BT).double()
        return (mean * B - (B - first) * math.log(self.shape.vocab_size)) / first

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal with the parametrization's deviations, norms at 1; `generator` alone decides.

        Values are drawn on the generator's device and copied, so a seed means the same on every device.
        """
        for name, parameter in self.named_parameters():
            std = self.parametrization.rule(name).init_std
            if std is None:
                parameter.fill_(1.0)
                continue
            drawn = torch.empty(parameter.shape, device=generator.device)
            parameter.copy_(drawn.normal_(0.0, std, generator=generator))


def build_model(
    shape: Shape,
    *,
    seq_len: int,
    seed: int,
    device: torch.device,
    parametrization: Parametrization | None = None,
    cross_entropy: Loss = full_loss,
) -> Transformer:
    """A fresh fp32 model on `device`, initialised from `seed` alone; standard where no `parametrization` is given.

    `cross_entropy` is how its head computes the loss (`sweeper.model.loss`), the definition itself by default.

    Raises RuntimeError when the built parameter count differs from the shape's: counts are what people
    choose shapes by, so a trial never runs on a wrong one.
    """
    with torch.device("meta"):
        model = Transformer(shape, seq_len=seq_len, parametrization=parametrization, cross_entropy=cross_entropy)
    model = model.to_empty(device=device)
    if shape.tie_embeddings:
        model.head.weight = model.embedding.weight
    model.cos_TC, model.sin_TC = rotary_tables(seq_len, shape.head_dim, device)
    built = sum(parameter.numel() for parameter in model.parameters())
    if built != shape.params.total:
        raise RuntimeError(f"the model as built has {built:,} parameters, its shape counts {shape.params.total:,}")
    model.initialise(torch.Generator().manual_seed(seed))
    return model
