"""Doubts about how a trial came to be run: in which precision, on a device in which state, at whose learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.ledger.typed import FinalLine, MeasuredLine
from sweeper.measurements.measured import Measured
from sweeper.measurements.speeds import parted
from sweeper.model.shape import Shape
from sweeper.values.labels import listed
from sweeper.values.records import Config

POWER_CAP = "power cap"
"""The name that `sweeper.runners.device.device_state` gives the commonest reason to slow down."""
BUSY = 0.9
"""The share of the time from which a GPU counts as busy all along."""


def precision_caveats(m: Measured, names: Mapping[str, str]) -> list[str]:
    """Where bf16 stands in for FP8, trials of a config differ in how they came to be run, or nothing is in FP8."""
    return [*_retried(m, names), *_apart(m, names), *_at_several_micro_batches(m, names), *_nothing_converted(m)]


def _retried(m: Measured, names: Mapping[str, str]) -> list[str]:
    retried = [r for r in m.finals if r.config.precision == "fp8" and r.resolved.precision == "bf16"]
    if not retried:
        return []
    return [
        f"FP8 gave no finite loss in {len(retried)} of {len(m.finals)} trials ({_named(retried, names)}), which were "
        "trained in bf16: loss and speed there are bf16's. A lower learning rate may train them in FP8."
    ]


def _apart(m: Measured, names: Mapping[str, str]) -> list[str]:
    if not m.apart:
        return []
    precisions = {r.config_id: _precision(r) for r in m.finals}
    by_precision = [r for r in m.apart if _precision(r) != precisions.get(r.config_id, _precision(r))]
    by_steps = [r for r in m.apart if not any(r is one for one in by_precision)]
    doubts = []
    if by_precision:
        doubts.append(
            f"{_trials(by_precision)} of {_named(by_precision, names)} computed in another precision than the others "
            f"of the config ({listed(sorted({_precision(r) for r in by_precision}))}, as after a NaN under FP8) and "
            "aren't pooled with them. `precision: bf16` trains all alike."
        )
    if by_steps:
        doubts.append(
            f"{_trials(by_steps)} of {_named(by_steps, names)} had other steps than the others of the config, as their "
            "minutes were resolved from another speed, and aren't pooled with them. `sweeper run --fresh` trains all "
            "alike."
        )
    return doubts


def _precision(record: FinalLine) -> str:
    return str(record.resolved.precision or record.config.precision)


def _trials(records: Sequence[FinalLine]) -> str:
    return "1 trial" if len(records) == 1 else f"{len(records)} trials"


def _named(records: Sequence[FinalLine], names: Mapping[str, str]) -> str:
    return listed(list(dict.fromkeys(names.get(r.config_id, r.config_id) for r in records)))


def _at_several_micro_batches(m: Measured, names: Mapping[str, str]) -> list[str]:
    """Configs in FP8 whose trials had different micro-batches, over which FP8's scales span."""
    sizes: dict[str, set[int]] = {}
    reports = [(r, r.environment.get("precision") or {}) for r in m.trials]
    in_fp8 = [r for r, report in reports if report.get("name") == "fp8" and report.get("converted")]
    for record in in_fp8:
        sizes.setdefault(record.config_id, set()).add(record.execution.batch_size)
    several = [r for r in in_fp8 if len(sizes[r.config_id]) > 1]
    if not several:
        return []
    found = sorted(set().union(*(sizes[r.config_id] for r in several)))
    return [
        f"{_trials(several)} of {_named(several, names)} computed in FP8 at different micro-batches "
        f"({listed(list(map(str, found)))}): a scale spans the micro-batch there, so their losses differ slightly by "
        "that too. One `batch_size` trains all alike."
    ]


def _nothing_converted(m: Measured) -> list[str]:
    reports = [r.environment.get("precision") or {} for r in m.finals]
    bare = [one for one in reports if one.get("name") == "fp8" and one.get("total") and one.get("converted") == 0]
    if not bare:
        return []
    why = next((str(one["kept_out"][0]) for one in bare if one.get("kept_out")), "")
    return [
        f"{len(bare)} of {len(m.finals)} trials were to compute in FP8 and had no matmul converted"
        f"{f' ({why})' if why else ''}: they computed in bf16. `fp8_filter: none` converts all that is aligned."
    ]


def device_state_caveats(records: Sequence[MeasuredLine]) -> list[str]:
    """Where a device was shared with other processes, or slowed itself down, while it was timed."""
    states = [r.environment.get("device_state") or {} for r in records if r.environment]
    shared = [state["other_processes"] for state in states if state.get("other_processes")]
    reasons = [set(state.get("throttle_reasons") or ()) for state in states]
    # At its power cap a device is as it should be under load, as long as that goes for all.
    usual = {POWER_CAP} if reasons and all(POWER_CAP in some for some in reasons) else set()
    throttled = [some - usual for some in reasons if some - usual]
    doubts = []
    if shared:
        doubts.append(
            f"{len(shared)} of {len(records)} jobs were timed on a device that other processes used (up to "
            f"{max(shared)} of them): their speed is a lower bound. Measure on a device of its own."
        )
    if throttled:
        doubts.append(
            f"The device slowed itself down in {len(throttled)} of {len(records)} jobs "
            f"({listed(sorted(set().union(*throttled)))}): compare speeds measured cool, or at fixed clocks."
        )
    return doubts


def contention_caveats(records: Sequence[MeasuredLine]) -> list[str]:
    """Where other work slowed so many windows that the uncontended speed lies well above their median."""
    above = parted(records)
    if not above:
        return []
    return [
        f"Other work slowed {len(above)} of {len(records)} jobs: their speeds are estimates for an idle machine, "
        f"up to {max(above):.0%} above the median of their windows. A quiet machine measures it."
    ]


def launch_bound_caveats(records: Sequence[MeasuredLine]) -> list[str]:
    """Where a GPU waited for the CPU to launch its kernels, so that a speed says more of that than of the card."""
    known = [r.speed.busy for r in records if r.speed is not None and r.speed.busy is not None]
    waiting = [share for share in known if share < BUSY]
    if not waiting:
        return []
    return [
        f"The GPU waited for kernels to be launched in {len(waiting)} of {len(known)} jobs (busy {min(waiting):.0%} of "
        "the time at the least): their speeds are bound by launches, which costs deep and narrow shapes more than the "
        "card does. A larger `batch_size` keeps it busy."
    ]


def unscaled_caveats(configs: Sequence[Config]) -> list[str]:
    """Where one learning rate serves several shapes without being scaled: AdamW, the standard parametrization."""
    unscaled = [
        config.shape
        for config in configs
        if isinstance(config.shape, Shape)
        and config.optimizer is not None
        and config.optimizer.name == "adamw"
        and config.optimizer.base is None
    ]
    depths, widths = len({shape.n_layers for shape in unscaled}), len({shape.d_model for shape in unscaled})
    over = [f"{n} {what}" for n, what in ((widths, "widths"), (depths, "depths")) if n > 1]
    if not over:
        return []
    return [
        f"One learning rate serves {' and '.join(over)}: in part it's the rate that is ranked. `parametrization: "
        "completep` scales it with the shape; `optimizer.lr` as an axis tries several."
    ]
