"""Rules between the fields of the trial: its length, its steps, its micro-batches, its precision, its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from math import lcm

from sweeper.study.build import steps_given
from sweeper.study.context import Context, Faults, either, layer_of
from sweeper.study.layers import COMPANIONS, Companions
from sweeper.study.nodes import YamlNode
from sweeper.study.presets import PRESETS
from sweeper.study.schema import DEFAULT_BATCH_SIZE, Ladder, SeedRange, Solve

_LENGTHS = ("tokens", "flops", "minutes", "tokens_per_param")
_STEP_FIELDS = ("tokens_per_step", "batch_size", "grad_accum_steps", "seq_len")

MUON_WITH_COMPLETEP = (
    "completep's rules are AdamW's (arXiv 2505.01618), and Muon's update is matched to the shape of each matrix "
    "already: write parametrization: standard with muon, or name: adamw with completep"
)
"""Why the two don't go together."""


def _length(context: Context) -> Faults:
    if not any(context.node(place, name) for place in ("trial", "axes") for name in _LENGTHS):
        trial = context.blamed(("trial",))
        yield trial.key_fault(f"how long a trial is, is missing; give one of {', '.join(_LENGTHS)}")


def _whole_steps(context: Context) -> Faults:
    """tokens_per_step is a multiple of batch_size × seq_len, where at most one of them is an axis."""
    names = ("tokens_per_step", "batch_size", "seq_len")
    if sum(name in context.axes for name in names) > 1:
        return
    options = [context.options(name) for name in names]
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
                yield _one_of_several(nodes).fault(
                    f"tokens_per_step {step} is no multiple of batch_size {batch_size} × seq_len {seq_len} "
                    f"= {micro}; nearest are {near_by}"
                )


def _one_of_several(nodes: list[YamlNode]) -> YamlNode:
    """The node to blame: a value of an axis, else a rung of a ladder, else what was written last."""
    for several in (".axes.", ".fastest["):
        for node in nodes:
            if several in f".{node.path}":
                return node
    return max(nodes, key=layer_of)


def _ladder(context: Context) -> Faults:
    """The rungs differ, and tokens per step are the same on each: loss must not depend on which is the fastest."""
    ladder, node = context.document.trial.batch_size, context.node("trial", "batch_size")
    if not isinstance(ladder, Ladder) or node is None:
        return
    if not ladder.fastest:
        yield node.fault("a ladder without rungs; write {fastest: [4, 8, 16]}")
        return
    seen = set()
    for rung, rung_node in context.options("batch_size"):
        if rung in seen and rung_node is not None:
            yield rung_node.fault(f"{rung} is in the ladder already; take it out")
        seen.add(rung)
    for place in ("trial", "axes"):
        accumulation = context.node(place, "grad_accum_steps")
        if accumulation is not None:
            yield accumulation.key_fault("changes the step with each rung of batch_size; give tokens_per_step instead")
            return
    if all(context.node(place, "tokens_per_step") is None for place in ("trial", "axes")):
        fits = f": {lcm(*ladder.fastest) * context.document.trial.seq_len}" if "seq_len" not in context.axes else ""
        yield node.key_fault(f"a ladder needs a step that is the same on each rung; add tokens_per_step{fits}")


def _at_least_one_step(context: Context) -> Faults:
    trial = context.document.trial
    if trial.tokens is None or any(name in context.axes for name in _STEP_FIELDS):
        return
    if isinstance(trial.batch_size, Ladder):
        micro_batch = 0
    else:
        batch_size, accumulation = trial.batch_size or DEFAULT_BATCH_SIZE, trial.grad_accum_steps or 1
        if context.document.base and not steps_given(trial, context.axes):
            preset = PRESETS[context.document.base]["trial"]
            batch_size, accumulation = preset["batch_size"], preset["grad_accum_steps"]
        micro_batch = batch_size * accumulation * trial.seq_len
    step = trial.tokens_per_step or micro_batch
    if trial.tokens < step:
        blamed = context.blamed(*(("trial", name) for name in ("tokens", *_STEP_FIELDS)))
        yield blamed.fault(f"{trial.tokens} tokens are less than one step of {step}; give at least {step}")


def _seeds(context: Context) -> Faults:
    """A range of seeds has an end, above its start."""
    seeds, node = context.document.trial.seeds, context.node("trial", "seeds")
    if not isinstance(seeds, SeedRange) or node is None:
        return
    if seeds.max is None:
        yield node.key_fault("missing; as many seeds as a config may be trained with, such as 5", child="max")
    elif seeds.max <= seeds.min:
        where = context.node("trial", "seeds", "max") or node
        yield where.fault(f"max {seeds.max} is not above min {seeds.min}; write seeds: {seeds.min}, or a larger max")


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


def _branches(context: Context) -> Faults:
    """Branches ascend, and none begins within the warm-up, at each value of an axis of the schedule."""
    optimizer, node = context.document.trial.optimizer, context.node("trial", "branch_at")
    fractions, places = context.document.trial.branch_at, node.elements() if node else []
    warmup = max([value for value, _ in context.options("optimizer.warmup")], default=optimizer.warmup)
    cooldown = max([value for value, _ in context.options("optimizer.cooldown")], default=optimizer.cooldown)
    least, before = warmup / (1 - cooldown), 0.0
    for fraction, place in zip(fractions, places, strict=False):
        if fraction <= before:
            yield place.fault(f"{fraction:g} doesn't follow {before:g}; give branches in ascending order, each once")
        elif fraction < least:
            begins = f"a branch at {fraction:g} leaves for its cooldown at {fraction * (1 - cooldown):.3g} of the steps"
            right = f"at {least:.3g} or later, or shorten the warm-up" if least < 1 else "none with such a schedule"
            yield place.fault(f"{begins}, within the warm-up of {warmup:g}; {right}")
        before = max(before, fraction)


def _companions(companions: Companions) -> Callable[[Context], Faults]:
    """The rule that fields are given only where their owner has a value at which they mean something."""

    def rule(context: Context) -> Faults:
        if any(value in companions.words for value, _ in context.options(companions.owner)):
            return
        key = companions.owner.rpartition(".")[2]
        for name in companions.names:
            for path in companions.paths(name):
                node = context.node(*path)
                if node is not None:
                    at = " or ".join(companions.words)
                    yield node.key_fault(
                        f"goes with {key} {at} only; write {key}: {companions.words[0]}, or take it out"
                    )

    return rule


def _base(context: Context) -> Faults:
    """completep comes with the shape that it scales from."""
    scaled = [node for value, node in context.options("optimizer.parametrization") if value == "completep"]
    if not scaled:
        return
    base, node = context.document.trial.optimizer.base, context.node("trial", "optimizer", "base")
    if base is None or node is None:
        place = scaled[0] or context.blamed(("trial", "optimizer"))
        yield place.fault("completep scales lr from a base shape; add base: {n_layers: 12, d_model: 768}")
        return
    for name in ("n_layers", "d_model"):
        if getattr(base, name) is None:
            yield node.key_fault("missing; the base is the shape at which lr holds", child=name)


def _muon_with_completep(context: Context) -> Faults:
    """Not both, where at most one of the two is an axis: planning drops such points of two."""
    names = ("optimizer.name", "optimizer.parametrization")
    if all(name in context.axes for name in names):
        return
    pairs = zip(names, ("muon", "completep"), strict=True)
    found = [next((n for value, n in context.options(name) if value == word), None) for name, word in pairs]
    if all(node is not None for node in found):
        nodes = [node for node in found if node is not None]
        listed = [node for node in nodes if ".axes." in f".{node.path}"]
        yield (listed[0] if listed else max(nodes, key=lambda node: (layer_of(node), node.at))).fault(
            MUON_WITH_COMPLETEP
        )


def _batch_scaling(context: Context) -> Faults:
    """batch_scaling stands where tokens per step differ from those of the learning rate."""
    optimizer, node = context.document.trial.optimizer, context.node("trial", "optimizer", "batch_scaling")
    reference = optimizer.base.tokens_per_step if optimizer.base else None
    if node is not None and reference is None and "tokens_per_step" not in context.axes:
        yield node.key_fault("rescales nothing: tokens_per_step is no axis, and the base has none; take it out")


_SCALED = either("optimizer.name", "optimizer.parametrization", "optimizer.base")

TRIAL_RULES: tuple[tuple[tuple[str, ...], Callable[[Context], Faults]], ...] = (
    (either(*_LENGTHS), _length),
    (either(*_STEP_FIELDS), _whole_steps),
    (either(*_STEP_FIELDS), _ladder),
    (("base", *either("tokens", *_STEP_FIELDS)), _at_least_one_step),
    (("trial.seeds",), _seeds),
    (either("optimizer.warmup", "optimizer.cooldown"), _schedule),
    (("trial.branch_at", *either("optimizer.warmup", "optimizer.cooldown")), _branches),
    *((either(companions.owner, *companions.names), _companions(companions)) for companions in COMPANIONS),
    (_SCALED, _base),
    (_SCALED, _muon_with_completep),
    (either("optimizer.base", "optimizer.batch_scaling", "tokens_per_step"), _batch_scaling),
)
"""The paths that a rule reads, and the rule."""
