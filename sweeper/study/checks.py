"""Rules between fields, each checked as soon as the fields that it reads are sound."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import Fault
from sweeper.study.axes import SOLVABLE, Axis
from sweeper.study.build import steps_given
from sweeper.study.keys import did_you_mean, near
from sweeper.study.layers import SHAPE_GROUPS
from sweeper.study.nodes import Node
from sweeper.study.presets import PRESETS
from sweeper.study.schema import DEFAULT_BATCH_SIZE, EMBEDDED_DATA, Document, Solve
from sweeper.study.sizes import shown
from sweeper.study.validation import Sound

Faults = Iterator[Fault]
_UNDERIVED = ("n_layers", "d_model", "vocab_size")
_LENGTHS = ("tokens", "flops", "tokens_per_param")
_STEP_FIELDS = ("tokens_per_step", "batch_size", "grad_accum_steps", "seq_len")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Context:
    """A study under one profile, as far as it is sound.

    `folder` is that of its file; `data_must_exist` is False for a study that is only looked back at.
    """

    sound: Sound
    axes: Mapping[str, Axis]
    folder: Path
    data_must_exist: bool = True

    @property
    def document(self) -> Document:
        """The values."""
        return self.sound.document

    def node(self, *path: str) -> Node | None:
        """The node at `path`, if the study has one."""
        return self.sound.root.get(*path)

    def blamed(self, *paths: tuple[str, ...]) -> Node:
        """The node among `paths` that was written last: under --set, else in the profile, else the first."""
        nodes = [node for path in paths if (node := self.node(*path)) is not None]
        return max(nodes, key=_layer) if nodes else self.sound.root


def _layer(node: Node) -> int:
    if node.file == "--set":
        return 2
    return 1 if node.path.startswith("profiles.") else 0


def check(context: Context) -> Faults:
    """Every rule whose fields are sound."""
    for needs, rule in _RULES:
        if context.sound.sound(*needs):
            yield from rule(context)


def _name(context: Context) -> Faults:
    if not _NAME.fullmatch(context.document.name):
        message = f"{shown(context.document.name)} can't name a folder"
        right = "start with a letter or digit, then letters, digits, - _ and . (at most 100)"
        yield context.blamed(("name",)).fault(f"{message}; {right}")


def _length(context: Context) -> Faults:
    if not any(context.node(place, name) for place in ("trial", "axes") for name in _LENGTHS):
        trial = context.blamed(("trial",))
        yield trial.key_fault("how long a trial is, is missing; give one of tokens, flops, tokens_per_param")


def _shape_is_whole(context: Context) -> Faults:
    """n_layers, d_model and vocab_size, which nothing can be derived from, are given for every point."""
    root = context.sound.root
    shared = {*_keys(root.get("model")), *_keys(root.get("axes")), *_preset_fields(root.get("base"))}
    shapes = root.get("shapes")
    entries = shapes.elements() if shapes else []
    if not entries:
        place = root.get("model") or root
        for name in _UNDERIVED:
            if name not in shared and context.sound.sound("base", f"model.{name}", f"axes.{name}"):
                yield place.key_fault(f"{name} is given nowhere; add it under model, axes or shapes")
    for entry in entries:
        known = shared | _keys(entry) | _preset_fields(entry.get("preset"))
        for name in _UNDERIVED:
            places = [f"{place}.{name}" for place in ("model", "axes", "shapes")]
            if name not in known and isinstance(entry.value, dict) and context.sound.sound("base", *places):
                yield entry.fault(f"{name} is given nowhere; add it here, or under model or axes")


def _keys(node: Node | None) -> set[str]:
    return set(node.items()) if node else set()


def _preset_fields(node: Node | None) -> set[str]:
    """What a preset gives; an unknown one is a fault already, and might give anything."""
    if node is None:
        return set()
    preset = PRESETS.get(node.value) if isinstance(node.value, str) else None
    return set(preset["model"]) if preset else set(_UNDERIVED)


def _shapes_apart(context: Context) -> Faults:
    """A field stands in the shapes, in `model` or in the axes, and one of alternatives in a shape."""
    root = context.sound.root
    shapes = root.get("shapes")
    elsewhere = {place: _keys(root.get(place)) for place in ("model", "axes")}
    for entry in shapes.elements() if shapes else []:
        for group in SHAPE_GROUPS:
            names = [name for name in entry.items() if name in group]
            rivals = [f"{place}.{name}" for place in elsewhere for name in group if name in elsewhere[place]]
            for index, name in enumerate(names):
                if rivals or index:
                    rival = rivals[0] if rivals else names[0]
                    yield entry.items()[name].key_fault(f"{rival} is given too; keep one of the two")


def _multiple_of(context: Context) -> Faults:
    """multiple_of stands where there is an ffn_ratio for it to round."""
    root = context.sound.root
    shapes = root.get("shapes")
    entries = shapes.elements() if shapes else []
    model, axes = root.get("model"), root.get("axes")
    shared = "ffn_ratio" in _keys(model) | _keys(axes)
    for place in (model, *entries):
        node = place.get("multiple_of") if place else None
        used = shared or any("ffn_ratio" in _keys(e) for e in (entries if place is model else [place]))
        if node is not None and not used:
            yield node.key_fault("rounds ffn_ratio, which isn't given; give ffn_ratio, or take this out")


def _params(context: Context) -> Faults:
    params, node = context.document.budget.params, context.node("budget", "params")
    if params is None or node is None:
        return
    if params.target is None and params.min is None and params.max is None:
        yield node.key_fault("give {target: 180M, tolerance: 2%}, or {min:, max:}")
    if params.min is not None and params.max is not None and params.min > params.max:
        blamed = context.blamed(("budget", "params", "max"), ("budget", "params", "min"))
        yield blamed.fault(f"max {params.max} is below min {params.min}; swap them")


def _solved(context: Context) -> Faults:
    """At most one axis is solved, and there is something to solve for."""
    axes = context.node("axes")
    solved = [node for name, node in axes.items().items() if "solve" in node.items()] if axes else []
    solved = [node for node in solved if node.path.rpartition(".")[2] in SOLVABLE]
    for node in solved[1:]:
        first = solved[0].path.rpartition(".")[2]
        yield node.fault(f"{first} is solved already, and only one axis can be; write a list")
    params = context.document.budget.params
    if solved and params is None and context.sound.sound("budget"):
        yield solved[0].fault("nothing to solve for; add budget: {params: {target: 180M, tolerance: 2%}}")
    elif solved and params is not None and (params.min is None) != (params.max is None):
        blamed = context.blamed(("budget", "params"))
        yield blamed.key_fault("solving aims at the middle of min and max; give both, or a target")


def _options(context: Context, name: str) -> list[tuple[int | None, Node | None]]:
    if name in context.axes:
        axis = context.axes[name]
        values = () if isinstance(axis.values, Solve) else axis.values
        return list(zip(values, axis.nodes, strict=False))
    return [(getattr(context.document.trial, name), context.node("trial", name))]


def _whole_steps(context: Context) -> Faults:
    """tokens_per_step is a multiple of batch_size × seq_len, where at most one of them is an axis."""
    names = ("tokens_per_step", "batch_size", "seq_len")
    if sum(name in context.axes for name in names) > 1:
        return
    options = [_options(context, name) for name in names]
    for step, step_node in options[0]:
        for batch, batch_node in options[1]:
            for seq_len, seq_node in options[2]:
                batch_size = batch or DEFAULT_BATCH_SIZE
                if step is None or seq_len is None or step % (batch_size * seq_len) == 0:
                    continue
                micro = batch_size * seq_len
                below, above = step // micro * micro, (step // micro + 1) * micro
                near_by = f"{below} and {above}" if below else f"{above}"
                nodes = [node for node in (step_node, batch_node, seq_node) if node is not None]
                listed = [node for node in nodes if ".axes." in f".{node.path}"]
                yield (listed[0] if listed else max(nodes, key=_layer)).fault(
                    f"tokens_per_step {step} is no multiple of batch_size {batch_size} × seq_len {seq_len} "
                    f"= {micro}; nearest are {near_by}"
                )


def _at_least_one_step(context: Context) -> Faults:
    trial = context.document.trial
    if trial.tokens is None or any(name in context.axes for name in _STEP_FIELDS):
        return
    batch_size, accumulation = trial.batch_size or DEFAULT_BATCH_SIZE, trial.grad_accum_steps or 1
    if context.document.base and not steps_given(trial, context.axes):
        preset = PRESETS[context.document.base]["trial"]
        batch_size, accumulation = preset["batch_size"], preset["grad_accum_steps"]
    step = trial.tokens_per_step or batch_size * accumulation * trial.seq_len
    if trial.tokens < step:
        blamed = context.blamed(*(("trial", name) for name in ("tokens", *_STEP_FIELDS)))
        yield blamed.fault(f"{trial.tokens} tokens are less than one step of {step}; give at least {step}")


def _schedule(context: Context) -> Faults:
    """warmup + cooldown ≤ 1 at each value of an axis of one of them."""
    optimizer = context.document.trial.optimizer
    both = {"warmup": optimizer.warmup, "cooldown": optimizer.cooldown}
    axes = [name for name in both if f"optimizer.{name}" in context.axes]
    if len(axes) > 1:
        return
    options = [(both, context.blamed(*(("trial", "optimizer", name) for name in both)))]
    if axes:
        axis = context.axes[f"optimizer.{axes[0]}"]
        values = () if isinstance(axis.values, Solve) else axis.values
        options = [({**both, axes[0]: value}, node) for value, node in zip(values, axis.nodes, strict=False)]
    for fractions, node in options:
        if fractions["warmup"] + fractions["cooldown"] > 1:
            said = f"warmup {fractions['warmup']:g} and cooldown {fractions['cooldown']:g}"
            yield node.fault(f"{said} are more than the whole schedule; their sum is at most 1")


def _search(context: Context) -> Faults:
    search = context.document.search
    if search.method == "random" and search.trials is None:
        yield context.blamed(("search",)).key_fault("random needs to know how many; add trials: 20", child="trials")
    for name in ("trials", "seed"):
        node = context.node("search", name)
        if search.method == "grid" and node is not None:
            yield node.key_fault("grid tries every config; take this out, or write method: random")


def _objectives(context: Context) -> Faults:
    node = context.node("objectives")
    if node is None:
        return
    wanted = {"val_loss": "min", "tokens_per_s": "max"}
    for name, direction in context.document.objectives.items():
        child = node.items()[name]
        if name not in wanted:
            hint = near(name, wanted)
            instead = f"did you mean {hint}?" if hint else "use val_loss and tokens_per_s"
            yield child.key_fault(f"other objectives are not supported yet; {instead}")
        elif direction != wanted[name]:
            yield child.fault(f"{direction} is not supported yet; write {wanted[name]}")
    named = {near(name, wanted) for name in context.document.objectives}
    if "val_loss" not in named:
        yield node.key_fault("the quality is missing; add val_loss: min")
    if "tokens_per_s" not in named:
        yield node.key_fault("the speed is missing; add tokens_per_s: max")


def _data(context: Context) -> Faults:
    data, node = context.document.trial.data, context.node("trial", "data")
    if node is None or data in EMBEDDED_DATA:
        return
    missing = context.data_must_exist and not os.path.exists(data_location(data, context.folder))
    if not data.strip() or missing:
        hint = did_you_mean(data, EMBEDDED_DATA).removesuffix("?")
        yield node.fault(f"{shown(data)} is no embedded data and no path beside the study; {hint}")


def data_location(data: str, folder: Path) -> Path:
    """The absolute path of data that isn't embedded, named relative to the study's `folder`."""
    return Path(os.path.abspath(folder / os.path.expanduser(data)))


def _either(*names: str) -> tuple[str, ...]:
    """Fields of the trial, fixed or as axes."""
    return tuple(f"{place}.{name}" for name in names for place in ("trial", "axes"))


_RULES: tuple[tuple[tuple[str, ...], Callable[[Context], Faults]], ...] = (
    (("name",), _name),
    (_either(*_LENGTHS, "minutes"), _length),
    ((), _shape_is_whole),
    ((), _shapes_apart),
    (("model.ffn_ratio", "axes.ffn_ratio", "shapes.ffn_ratio"), _multiple_of),
    (("budget.params",), _params),
    ((), _solved),
    (_either(*_STEP_FIELDS), _whole_steps),
    (("base", *_either("tokens", *_STEP_FIELDS)), _at_least_one_step),
    (_either("optimizer.warmup", "optimizer.cooldown"), _schedule),
    (("search",), _search),
    (("objectives",), _objectives),
    (("trial.data",), _data),
)
"""The paths that a rule reads, and the rule."""
