"""Rules between fields, each checked as soon as the fields that it reads are sound."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from sweeper.study.axes import SOLVABLE
from sweeper.study.context import Context, Faults
from sweeper.study.expressions import Expression, ExpressionError
from sweeper.study.keys import did_you_mean, near
from sweeper.study.layers import SHAPE_GROUPS
from sweeper.study.nodes import YamlNode
from sweeper.study.presets import PRESETS
from sweeper.study.schema import EMBEDDED_DATA
from sweeper.study.sizes import value_text
from sweeper.study.trial_checks import TRIAL_RULES
from sweeper.values.objectives import DIRECTIONS

_UNDERIVED = ("n_layers", "d_model", "vocab_size")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def check(context: Context) -> Faults:
    """Every rule whose fields are sound."""
    for needs, rule in _RULES:
        if context.sound.sound(*needs):
            yield from rule(context)


def _name(context: Context) -> Faults:
    if not _NAME.fullmatch(context.document.name):
        message = f"{value_text(context.document.name)} can't name a folder"
        right = "start with a letter or digit, then letters, digits, - _ and . (at most 100)"
        yield context.blamed(("name",)).fault(f"{message}; {right}")


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


def _keys(node: YamlNode | None) -> set[str]:
    return set(node.items()) if node else set()


def _preset_fields(node: YamlNode | None) -> set[str]:
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


def _constraints(context: Context) -> Faults:
    node = context.node("constraints")
    texts = [element for element in node.elements() if isinstance(element.value, str)] if node else []
    for element in texts:
        try:
            Expression(str(element.value))
        except ExpressionError as error:
            yield element.fault(str(error))


def _search(context: Context) -> Faults:
    search = context.document.search
    if search.method != "grid" and search.trials is None:
        message = f"{search.method} needs to know how many; add trials: 20"
        yield context.blamed(("search",)).key_fault(message, child="trials")
    for name in ("trials", "seed"):
        node = context.node("search", name)
        if search.method == "grid" and node is not None:
            yield node.key_fault("grid tries every config; take this out, or write another method, such as random")


def _objectives(context: Context) -> Faults:
    node = context.node("objectives")
    if node is None:
        return
    for name, direction in context.document.objectives.items():
        child = node.items()[name]
        if name not in DIRECTIONS:
            hint = near(name, DIRECTIONS)
            instead = f"did you mean {hint}?" if hint else f"there are {', '.join(DIRECTIONS)}"
            yield child.key_fault(f"no objective; {instead}")
        elif direction != DIRECTIONS[name]:
            yield child.fault(f"{direction} is not supported; write {DIRECTIONS[name]}")
    named = {near(name, DIRECTIONS) for name in context.document.objectives}
    if "val_loss" not in named:
        yield node.key_fault("the quality is missing; add val_loss: min")
    if "tokens_per_s" not in named:
        yield node.key_fault("the speed is missing; add tokens_per_s: max")
    if context.document.search.prune and (more := [name for name in node.items() if name in list(DIRECTIONS)[2:]]):
        yield node.items()[more[0]].key_fault(
            "search.prune judges by loss and speed alone, and may put last what is best here; take one of the two out"
        )


def _nuisance(context: Context) -> Faults:
    """Each names an axis of the optimizer: what a shape is, and how long it trains, can't be picked by the loss."""
    node, axes = context.node("nuisance"), _keys(context.node("axes"))
    for element in node.elements() if node else []:
        name = str(element.value)
        if name not in axes:
            hint = near(name, axes)
            yield element.fault(f"{name} is no axis; {f'did you mean {hint}?' if hint else 'name one of the axes'}")
        elif not name.startswith("optimizer."):
            yield element.fault(f"{name} is in question, or changes the speed; only axes of the optimizer can be named")
        elif name == "optimizer.name":
            yield element.fault("the optimizer changes the speed too; name axes such as optimizer.lr")


def _follow_up(context: Context) -> Faults:
    """A follow-up's tokens are more than a trial's, where these are the same for all."""
    asked, tokens = context.document.follow_up, context.document.trial.tokens
    if asked is None or tokens is None or not isinstance(asked.tokens, int) or asked.tokens > tokens:
        return
    node = context.node("follow_up", "tokens") or context.blamed(("follow_up",))
    yield node.fault(f"{asked.tokens} tokens are not more than the trial's {tokens}; give more, or a factor like 4x")


def _data(context: Context) -> Faults:
    data, node = context.document.trial.data, context.node("trial", "data")
    if node is None or data in EMBEDDED_DATA:
        return
    place = data_location(data, context.folder)
    missing = context.data_must_exist and not os.path.exists(place)
    if not data.strip() or missing:
        hint = did_you_mean(data, EMBEDDED_DATA).removesuffix("?")
        yield node.fault(f"{value_text(data)} is no embedded data and no path beside the study; {hint}")
    elif context.data_must_exist and (wrong := context.data_fault(str(place))):
        yield node.fault(wrong)


def data_location(data: str, folder: Path) -> Path:
    """The absolute path of data that isn't embedded, named relative to the study's `folder`."""
    return Path(os.path.abspath(folder / os.path.expanduser(data)))


_RULES: tuple[tuple[tuple[str, ...], Callable[[Context], Faults]], ...] = (
    (("name",), _name),
    ((), _shape_is_whole),
    ((), _shapes_apart),
    (("model.ffn_ratio", "axes.ffn_ratio", "shapes.ffn_ratio"), _multiple_of),
    (("budget.params",), _params),
    ((), _solved),
    *TRIAL_RULES,
    ((), _constraints),
    (("search",), _search),
    (("objectives", "search"), _objectives),
    (("nuisance", "axes"), _nuisance),
    (("trial.data",), _data),
    (("follow_up", "trial.tokens", "axes.tokens"), _follow_up),
)
"""The paths that a rule reads, and the rule."""
