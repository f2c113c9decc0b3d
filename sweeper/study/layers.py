"""Layers of a study: the file, a profile over it, `--set` over both; and the one-of groups between fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sweeper.study.nodes import YamlNode, plain
from sweeper.study.schema import OptimizerFields
from sweeper.values.errors import Fault

Path = tuple[str, ...]

SHAPE_GROUPS = (
    ("n_layers",),
    ("d_model",),
    ("n_heads", "head_dim"),
    ("n_kv_heads", "kv_groups"),
    ("ffn_hidden", "ffn_ratio"),
    ("vocab_size",),
    ("tie_embeddings",),
)
TRIAL_GROUPS = (
    ("tokens", "flops", "minutes", "tokens_per_param"),
    ("tokens_per_step", "grad_accum_steps"),
    ("seq_len",),
    ("batch_size",),
    ("precision",),
    ("fp8_backend",),
    ("fp8_filter",),
    ("data",),
)
OPTIMIZER_AXES = tuple(
    f"optimizer.{name}" for name in OptimizerFields.model_fields if name not in ("base", "batch_scaling")
)
SHAPE_AXES = tuple(name for group in SHAPE_GROUPS for name in group)
TRIAL_AXES = tuple(name for group in TRIAL_GROUPS for name in group)
AXES = (*SHAPE_AXES, *TRIAL_AXES, *OPTIMIZER_AXES)


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One member of a one-of group: the paths that set it, and those that mean nothing without it."""

    paths: tuple[Path, ...]
    beside: tuple[Path, ...] = ()


Alternatives = tuple[Alternative, ...]


def place_of_axis(axis: str) -> Path:
    """Where the field of an axis stands when it is fixed: `n_layers` → model, `optimizer.lr` → trial."""
    if axis in SHAPE_AXES:
        return ("model", axis)
    return ("trial", *axis.split(".", 1))


def _groups() -> Iterator[Alternatives]:
    optimizer = tuple((name,) for name in OPTIMIZER_AXES)
    for names in (*SHAPE_GROUPS, *TRIAL_GROUPS, *optimizer):
        choices = []
        for name in names:
            beside: tuple[Path, ...] = (("model", "multiple_of"),) if name == "ffn_ratio" else ()
            choices += [Alternative(paths=(place_of_axis(name),), beside=beside)]
            choices += [Alternative(paths=(("axes", name),), beside=beside)]
        yield tuple(choices)
    params = ("budget", "params")
    yield (
        Alternative(paths=((*params, "target"), (*params, "tolerance"))),
        Alternative(paths=((*params, "min"), (*params, "max"))),
    )


GROUPS: tuple[Alternatives, ...] = tuple(_groups())


@dataclass(frozen=True, kw_only=True)
class Companions:
    """Fields (of the trial, fixed or as axes) that mean something only at some `words` of another, the `owner`."""

    owner: str
    words: tuple[str, ...]
    names: tuple[str, ...]

    def paths(self, name: str) -> tuple[Path, Path]:
        """Where the field stands, fixed or as an axis."""
        return place_of_axis(name), ("axes", name)


COMPANIONS = (
    Companions(owner="precision", words=("fp8", "auto"), names=("fp8_backend", "fp8_filter")),
    Companions(owner="optimizer.name", words=("muon",), names=("optimizer.momentum",)),
    Companions(owner="optimizer.parametrization", words=("completep",), names=("optimizer.base",)),
)


def _given(layer: YamlNode, choice: Alternative) -> list[YamlNode]:
    nodes = [layer.get(*path) for path in choice.paths]
    return [node for node in nodes if node is not None and node.value is not None]


def conflicts(layer: YamlNode) -> Iterator[Fault]:
    """A fault at each member of a one-of group after the first that one layer sets."""
    for group in GROUPS:
        given = [min(nodes, key=lambda node: node.key_at) for c in group if (nodes := _given(layer, c))]
        given.sort(key=lambda node: node.key_at)
        for second in given[1:]:
            yield second.key_fault(f"{given[0].path} is given too; keep one of the two")


def merged(base: YamlNode, over: YamlNode) -> YamlNode:
    """`over` on top of `base`: mappings merge, all else replaces, null removes, one-of groups replace.

    What goes with a value goes with it: under `precision: fp32` nothing is left of `fp8_backend`.
    """
    for group in GROUPS:
        chosen = [choice for choice in group if _given(over, choice)]
        if chosen:
            kept = {path for choice in chosen for path in (*choice.paths, *choice.beside)}
            for choice in group:
                for path in (*choice.paths, *choice.beside):
                    base = base if path in kept else _without(base, path)
    result = _over(base, over, ())
    for companions in COMPANIONS:
        if _turned_away(over, result, companions):
            for name in companions.names:
                for path in companions.paths(name):
                    base = _without(base, path)
    return _over(base, over, ())


def _turned_away(over: YamlNode, result: YamlNode, companions: Companions) -> bool:
    """Whether `over` gives or removes the owner, and leaves none of the words that its companions need."""
    paths = companions.paths(companions.owner)
    nodes = [node for path in paths if (node := result.get(*path)) is not None]
    given = [plain(element) for node in nodes for element in (node.elements() or [node])]
    return any(over.get(*path) for path in paths) and not any(value in companions.words for value in given)


def _without(node: YamlNode, path: Path) -> YamlNode:
    child = node.get(path[0])
    if child is None:
        return node
    items = dict(node.items())
    if len(path) == 1:
        del items[path[0]]
    else:
        items[path[0]] = _without(child, path[1:])
    return node.with_items(items)


def _over(base: YamlNode, over: YamlNode, path: Path) -> YamlNode:
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return without_nulls(over)
    items = dict(base.value)
    if path[:1] == ("axes",) and len(path) == 2:
        if {_form(base), _form(over)} == {"solve", "range"}:
            return without_nulls(over)
        for one, other in (("step", "log"), ("log", "step")):
            if one in over.value and over.value[one].value is not None:
                items.pop(other, None)
    for key, child in over.value.items():
        if child.value is None:
            items.pop(key, None)
        elif key in items:
            items[key] = _over(items[key], child, (*path, key))
        else:
            items[key] = without_nulls(child)
    return base.with_items(items)


def _form(axis: YamlNode) -> str:
    if "solve" in axis.items():
        return "solve"
    return "range" if {"from", "to", "step", "log"} & set(axis.items()) else ""


def without_nulls(node: YamlNode) -> YamlNode:
    """The tree without keys whose value is null. A null in a list stays, for the schema to refuse."""
    if isinstance(node.value, dict):
        items = {key: without_nulls(child) for key, child in node.value.items() if child.value is not None}
        return node.with_items(items)
    if isinstance(node.value, list):
        return replace(node, value=[without_nulls(child) for child in node.value])
    return node
