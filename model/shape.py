"""The arithmetic of a decoder's shape: exact counts, FLOPs, head rules, derived fields. Stdlib only.

With L layers, width d, h query heads of size dh, kv key/value heads, FFN f, vocabulary V, sequence T:

    trunk  = L · (2·d·h·dh + 2·d·kv·dh + 3·d·f + 2·d) + d      attention, SwiGLU, two RMSNorms; final norm
    total  = trunk + V·d · (1 if tied else 2)
    matmul = L · (2·d·h·dh + 2·d·kv·dh + 3·d·f) + V·d          the head multiplies even when tied
    train FLOPs/token = 6·matmul + 12·L·h·dh·T                 PaLM (2204.02311) appendix B, full T
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

DEFAULT_HEAD_DIM = 64
FP8_MULTIPLE = 16
"""Both dimensions of an FP8 matmul are multiples of this (cuBLASLt's rule for FP8 operands)."""
SLOWER_IN_FP8 = (4096, 1024)
"""K and N up to which FP8 is slower than bf16: torchao 0.18, float8/float8_linear_utils.py, its automatic filter for
tensorwise scaling, measured on H100."""

NORM_EPS = 1e-6
"""Of RMSNorm."""
ROPE_THETA = 10_000.0
"""The base of rotary embedding's wavelengths."""

FIELDS = (
    "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "ffn_hidden", "vocab_size", "tie_embeddings",
)  # fmt: skip


class ShapeError(ValueError):
    """A shape that breaks a rule: `rule` is its short name, the message names the nearest that keeps it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, kw_only=True)
class Params:
    """Parameter counts. `embedding` is the input table; `head` the separate output table, 0 when tied."""

    total: int
    trunk: int
    embedding: int
    head: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What fixes the parameter count of a Llama-style decoder. All fields are counts; head_dim in channels."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_hidden: int
    vocab_size: int
    tie_embeddings: bool

    @property
    def params(self) -> Params:
        """Exact parameter counts, equal to those of the model as built."""
        trunk = self.n_layers * (self._layer_matmul + 2 * self.d_model) + self.d_model
        table = self.vocab_size * self.d_model
        head = table * (1 - self.tie_embeddings)
        return Params(total=trunk + table + head, trunk=trunk, embedding=table, head=head)

    @property
    def _layer_matmul(self) -> int:
        d, dh = self.d_model, self.head_dim
        return 2 * d * self.n_heads * dh + 2 * d * self.n_kv_heads * dh + 3 * d * self.ffn_hidden

    def train_flops_per_token(self, seq_len: int) -> int:
        """FLOPs of forward and backward for one token at `seq_len`: 6·matmul + 12·L·h·dh·T."""
        matmul = self.n_layers * self._layer_matmul + self.vocab_size * self.d_model
        return 6 * matmul + 12 * self.n_layers * self.n_heads * self.head_dim * seq_len

    def flops_per_token(self, seq_len: int | None) -> int | None:
        """`train_flops_per_token`; None without a `seq_len`."""
        return None if seq_len is None else self.train_flops_per_token(seq_len)

    def fields(self) -> dict[str, Any]:
        """The fields by their names."""
        return self.to_dict()

    def label(self) -> str:
        """Like "n_layers 12, d_model 768, ffn_hidden 2048"."""
        return f"n_layers {self.n_layers}, d_model {self.d_model}, ffn_hidden {self.ffn_hidden}"

    def matmuls(self) -> dict[str, tuple[int, int]]:
        """The matmuls of one block as built: name → (inputs K, outputs N)."""
        d, dh = self.d_model, self.head_dim
        return {
            "qkv": (d, (self.n_heads + 2 * self.n_kv_heads) * dh),
            "attention out": (self.n_heads * dh, d),
            "gate and up": (d, 2 * self.ffn_hidden),
            "down": (self.ffn_hidden, d),
        }

    def fp8_warnings(self) -> list[str]:
        """One line for each dimension that keeps matmuls out of FP8: which stay in bf16, what would fit."""
        kept_out = {name for name, (k, n) in self.matmuls().items() if k % FP8_MULTIPLE or n % FP8_MULTIPLE}
        warnings = []
        for field, users in (("ffn_hidden", ("gate and up", "down")), ("d_model", tuple(self.matmuls()))):
            value = getattr(self, field)
            names = [name for name in users if name in kept_out]
            if value % FP8_MULTIPLE and names:
                below, above = neighbours(value, FP8_MULTIPLE)
                near = f"{below} and {above}" if below else f"{above}"
                warnings.append(
                    f"{field} {value} is not a multiple of {FP8_MULTIPLE}, which FP8 needs: "
                    f"{', '.join(names)} stay in bf16; nearest multiples: {near}"
                )
        qkv_out = self.matmuls()["qkv"][1]
        if qkv_out % FP8_MULTIPLE and self.d_model % FP8_MULTIPLE == 0:
            warnings.append(
                f"({self.n_heads} heads + 2 × {self.n_kv_heads} KV heads) × head_dim {self.head_dim} = "
                f"{qkv_out} is not a multiple of {FP8_MULTIPLE}, which FP8 needs: qkv stays in bf16"
            )
        return warnings

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def computes_in_fp8(k: Any, n: Any, *, seq_len: int, layer_filter: Literal["auto", "none"]) -> Any:
    """Whether a matmul of K inputs and N outputs goes to FP8 under precision fp8; of arrays, for each.

    All dimensions must be aligned, the tokens' too (see `sweeper.model.precision`); the filter auto leaves out what FP8
    slows down.
    """
    aligned = (k % FP8_MULTIPLE == 0) & (n % FP8_MULTIPLE == 0) & (seq_len % FP8_MULTIPLE == 0)
    most_k, most_n = SLOWER_IN_FP8
    return aligned & ((layer_filter == "none") | (k > most_k) | (n > most_n))


def llama_config(shape: Shape, *, seq_len: int) -> dict[str, Any]:
    """A shape as Hugging Face's LlamaConfig has it, its `config.json`; trained on sequences of `seq_len` tokens."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.ffn_hidden,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tie_embeddings,
        "max_position_embeddings": seq_len,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": "float32",
    }


def neighbours(value: int, multiple: int) -> tuple[int, int]:
    """The multiples of `multiple` just below and above `value`."""
    below = value // multiple * multiple
    return below, below + multiple


def derive(fields: Mapping[str, Any]) -> Shape:
    """Fill in what is left out and check the head rules.

    `fields` holds n_layers, d_model, vocab_size, tie_embeddings, and optionally n_heads | head_dim,
    n_kv_heads | kv_groups, ffn_hidden | ffn_ratio with multiple_of. Raises ShapeError for a broken rule.
    """
    d_model = int(fields["d_model"])
    n_heads, head_dim = _heads(d_model, fields.get("n_heads"), fields.get("head_dim"))
    return Shape(
        n_layers=int(fields["n_layers"]),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=_kv_heads(n_heads, fields.get("n_kv_heads"), fields.get("kv_groups")),
        head_dim=head_dim,
        ffn_hidden=_ffn_hidden(d_model, fields),
        vocab_size=int(fields["vocab_size"]),
        tie_embeddings=bool(fields["tie_embeddings"]),
    )


def _heads(d_model: int, n_heads: int | None, head_dim: int | None) -> tuple[int, int]:
    if n_heads is None:
        head_dim = head_dim or DEFAULT_HEAD_DIM
        if head_dim % 2:
            raise ShapeError("head_dim % 2", f"head_dim {head_dim} is odd, rotary embedding needs pairs: "
                             f"nearest are {head_dim - 1 or 2} and {head_dim + 1}")  # fmt: skip
        if d_model % head_dim:
            below, above = neighbours(d_model, head_dim)
            near = f"d_model {above}" if not below else f"d_model {below} or {above}"
            raise ShapeError(
                "d_model % head_dim",
                f"d_model {d_model} can't be split into heads of {head_dim}: nearest are {near}",
            )
        return d_model // head_dim, head_dim
    if head_dim is not None and n_heads * head_dim != d_model:
        raise ShapeError(
            "d_model = n_heads * head_dim",
            f"{n_heads} heads of {head_dim} make {n_heads * head_dim}, not d_model {d_model}: leave one out",
        )
    if d_model % n_heads or d_model // n_heads % 2:
        raise ShapeError(
            "d_model % n_heads",
            f"d_model {d_model} can't be split over {n_heads} heads of even size: "
            + _near_head_split(d_model, n_heads),
        )
    return n_heads, d_model // n_heads


def _near_head_split(d_model: int, n_heads: int) -> str:
    below, above = neighbours(d_model, 2 * n_heads)
    width = below if below and d_model - below < above - d_model else above
    splits = [h for h in range(1, d_model // 2 + 1) if d_model % h == 0 and d_model // h % 2 == 0]
    if not splits:
        return f"nearest is d_model {width}"
    heads = min(splits, key=lambda h: (abs(h - n_heads), h))
    return f"nearest are {heads} heads of {d_model // heads}, or d_model {width}"


def _kv_heads(n_heads: int, n_kv_heads: int | None, kv_groups: int | None) -> int:
    divisors = [k for k in range(1, n_heads + 1) if n_heads % k == 0]
    if kv_groups is not None:
        if n_heads % kv_groups:
            raise ShapeError(
                "n_heads % kv_groups",
                f"{n_heads} heads can't be split into groups of {kv_groups}: "
                f"nearest is kv_groups {_nearest(divisors, kv_groups)}",
            )
        return n_heads // kv_groups
    if n_kv_heads is None:
        return default_kv_heads(n_heads)
    if n_heads % n_kv_heads:
        below, above = neighbours(n_heads, n_kv_heads)
        heads = f"{below} or {above}" if below else f"{above}"
        raise ShapeError(
            "n_heads % n_kv_heads",
            f"{n_heads} heads can't share {n_kv_heads} KV heads: nearest are "
            f"{_nearest(divisors, n_kv_heads)} KV heads, or {heads} heads",
        )
    return n_kv_heads


def default_kv_heads(n_heads: int) -> int:
    """The divisor of n_heads nearest, by ratio, to a third of it; the lower on a tie."""
    divisors = [k for k in range(1, n_heads + 1) if n_heads % k == 0]
    return min(divisors, key=lambda k: (_ratio(k, n_heads / 3), k))


def _nearest(values: list[int], wanted: int) -> int:
    return min(values, key=lambda v: (abs(v - wanted), v))


def _ratio(a: float, b: float) -> float:
    return max(a / b, b / a)


def _ffn_hidden(d_model: int, fields: Mapping[str, Any]) -> int:
    if fields.get("ffn_hidden") is not None:
        return int(fields["ffn_hidden"])
    if fields.get("ffn_ratio") is not None:
        multiple = int(fields.get("multiple_of") or 1)
        return max(multiple, round(d_model * float(fields["ffn_ratio"]) / multiple) * multiple)
    return d_model * 8 // 3
