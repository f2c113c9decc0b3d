"""How initialisation and the optimizer's settings follow the shape: standard, or CompleteP (2505.01618, α = 1).

CompleteP makes settings found at a base shape hold at others. With m_N the ratio of a matrix's inputs (its fan-in) to
the base's, m_D that of d_model, m_L that of layers, and σ, η, λ, ε what they are at the base:

                          init std    learning rate   weight decay   ε of AdamW      in the forward pass
    embedding, head       σ           η               λ              ε ÷ m_D         head's input ÷ m_D
    matrices of a block   σ ÷ √m_N    η ÷ m_N         λ · m_N        ε ÷ (m_D·m_L)   each branch ÷ m_L
    norms of a block      1           η               0              ε ÷ (m_D·m_L)
    final norm            1           η               0              ε ÷ m_D

These are the rules of the paper's reference implementation (EleutherAI/nanoGPT-mup, branch completep), where α = 1
leaves no depth in the learning rates, and of what it leaves open:

- There one ratio stands for all widths. Here each matrix has its own where its forward pass sums over its inputs
  (m_N); ε follows the size of gradients, which the head's ÷ m_D and the branches' ÷ m_L set for all matrices alike.
- Its residual outputs start with the σ of the other matrices. Here they start with GPT-2's σ ÷ √(2L) of the base's L,
  so that at the base shape itself both parametrizations are the same model, trained the same way.
- A tied table needs no compromise: the rules of embedding and head are the same, and only the head's input is scaled.
- Attention keeps its scale of 1 ÷ √head_dim: transfer holds where width grows by more heads of the same size. The
  paper's 1 ÷ head_dim is for heads that grow, and a base here says nothing of its heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.model.shape import Shape

INIT_STD = 0.02
NORMS = ("attention_norm.weight", "ffn_norm.weight")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One parameter's initialisation, and the factors on the study's learning rate, weight decay and ε.

    `init_std` is that of a normal distribution around 0; None for a norm's gain, which starts at 1.
    """

    init_std: float | None
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Parametrization:
    """A rule for each parameter, by its name within its block, or its whole name outside of blocks.

    `branch` multiplies what attention and FFN add to the residual stream, `head_input` the final norm's output.
    """

    rules: Mapping[str, Rule]
    branch: float = 1.0
    head_input: float = 1.0

    def rule(self, name: str) -> Rule:
        """The rule of the parameter that `Transformer.named_parameters` calls `name`. KeyError for another name."""
        return self.rules[name.split(".", 2)[2] if name.startswith("blocks.") else name]


def standard(shape: Shape) -> Parametrization:
    """Normal(0, 0.02), residual outputs ÷ √(2L) (GPT-2); one learning rate for all, no weight decay on norms."""
    return Parametrization(rules=_rules(shape, shape.n_layers, m_d=1.0, m_out=1.0, m_down=1.0, m_l=1.0))


def completep(shape: Shape, *, n_layers: int, d_model: int, ffn_hidden: int) -> Parametrization:
    """CompleteP for `shape`, from the base that the other arguments describe; its heads make up its d_model."""
    m_l, m_d = shape.n_layers / n_layers, shape.d_model / d_model
    m_out, m_down = shape.n_heads * shape.head_dim / d_model, shape.ffn_hidden / ffn_hidden
    rules = _rules(shape, n_layers, m_d=m_d, m_out=m_out, m_down=m_down, m_l=m_l)
    return Parametrization(rules=rules, branch=1 / m_l, head_input=1 / m_d)


def _rules(shape: Shape, base_layers: int, *, m_d: float, m_out: float, m_down: float, m_l: float) -> dict[str, Rule]:
    """The table above, for the base's number of layers and the ratios of d_model, of fan-ins and of layers."""

    def matrix(ratio: float, std: float) -> Rule:
        return Rule(init_std=std / ratio**0.5, lr=1 / ratio, weight_decay=ratio, eps=1 / (m_d * m_l))

    output_std = INIT_STD / (2 * base_layers) ** 0.5
    table = Rule(init_std=INIT_STD, eps=1 / m_d)
    return {
        "embedding.weight": table,
        **({} if shape.tie_embeddings else {"head.weight": table}),
        "head.norm.weight": Rule(init_std=None, weight_decay=0.0, eps=1 / m_d),
        **{name: Rule(init_std=None, weight_decay=0.0, eps=1 / (m_d * m_l)) for name in NORMS},
        "attention.qkv.weight": matrix(m_d, INIT_STD),
        "attention.out.weight": matrix(m_out, output_std),
        "ffn.gate_up.weight": matrix(m_d, INIT_STD),
        "ffn.down.weight": matrix(m_down, output_std),
    }
