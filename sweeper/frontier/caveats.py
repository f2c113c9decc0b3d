"""What a reader of the result has to know: each doubt is a short sentence with what to do about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sweeper.frontier.points import Point
from sweeper.frontier.trial_caveats import (
    contention_caveats,
    device_state_caveats,
    launch_bound_caveats,
    precision_caveats,
    unscaled_caveats,
)
from sweeper.ledger.typed import FinalLine, MeasuredLine
from sweeper.measurements.measured import Measured
from sweeper.measurements.nuisance_axes import Tuned
from sweeper.planning.outcomes import MAX_ATTEMPTS
from sweeper.search.further_seeds import SURELY_OFF, SURELY_ON
from sweeper.search.job_states import JobState, State
from sweeper.stats.additive_fit import AdditiveFit
from sweeper.values.labels import listed, short
from sweeper.values.records import Config

WIDE_WINDOWS = 0.15
"""Speed windows of one trial further apart than this fraction of their median are worth a word."""
FEW_SEEDS = 3

_UNFINISHED: tuple[tuple[State, str, str], ...] = (
    ("diverged", "diverged", "a lower learning rate may train them"),
    ("out_of_memory", "out of memory", "a smaller `batch_size` may fit, and `sweeper run` then asks for them again"),
    ("stopped_early", "stopped early", "they aren't ranked"),
    ("asked", "without a result yet", "running, or interrupted; `sweeper run` finishes them"),
    ("missing", "missing", "`sweeper run` does them, where `search.max_gpu_hours` isn't spent"),
)


def study_caveats(states: Sequence[JobState], configs: Sequence[Config], *, to_propose: int = 0) -> tuple[str, ...]:
    """Doubts about the study as a whole: what hasn't ended well, and what can't be compared at all."""
    counts = Counter(state.state for state in states)
    failed = [state.to_do for state in states if state.state == "failed" and not state.untrained]
    untrained = sum(state.state == "failed" and state.untrained for state in states)
    given_up = f"failed {MAX_ATTEMPTS} times"
    found = [
        (failed.count(True), "failed", "`sweeper status` says why, `sweeper run` tries again"),
        (failed.count(False), given_up, "the log says why; only `sweeper run --fresh` tries them again"),
        (untrained, "not trained", "their probes failed, and with them what would have been chosen"),
        *((counts[state], how, what_to_do) for state, how, what_to_do in _UNFINISHED),
    ]
    doubts = [f"{n} of {len(states)} jobs {how}: {what_to_do}." for n, how, what_to_do in found if n]
    if to_propose:
        doubts.append(f"{to_propose} trials to come, of configs yet to be chosen: `sweeper run` does them.")
    if len({config.vocab_size for config in configs}) > 1:
        doubts.append("Vocabularies differ, and a loss per token can't be compared between them: hold one fixed.")
    return tuple(doubts)


def device_caveats(
    m: Measured, *, configs: Sequence[Config], fits: Mapping[str, AdditiveFit], names: Mapping[str, str]
) -> tuple[str, ...]:
    """Doubts about what one device type measured. `configs` are the planned ones, `names` theirs by config id."""
    return (
        *_seed_caveats(m, fits),
        *_epoch_caveats(m.trials),
        *_left_out_caveats(m),
        *precision_caveats(m, names),
        *(contention_caveats((*m.finals, *m.speeds)) or _window_caveats((*m.finals, *m.speeds))),
        *device_state_caveats((*m.finals, *m.speeds)),
        *launch_bound_caveats((*m.finals, *m.speeds)),
        *_learning_rate_caveats(configs, fits["val_loss"]),
        *_notes(m.trials),
    )


def _seed_caveats(m: Measured, fits: Mapping[str, AdditiveFit]) -> list[str]:
    seeds = {record.seed for record in m.trials}
    doubts = []
    if len(seeds) == 1:
        doubts.append("One seed: differences can't be told from noise. Set `seeds: 3` or more and run again.")
    elif len(seeds) < FEW_SEEDS:
        doubts.append(f"{len(seeds)} seeds: intervals are wide. `seeds: {FEW_SEEDS}` or more narrows them.")
    elif fits["tokens_per_s"].variance is None:
        doubts.append("Each speed was measured once, so nothing is known of its noise.")
    if len(m.trials) < len(seeds) * len(fits["val_loss"].treatments):
        how = (
            "means are adjusted for the seeds that each lacks"
            if fits["val_loss"].paired
            else "configs share too few seeds to be compared in pairs"
        )
        doubts.append(f"Not every config has every seed: {how}.")
    return doubts


def nuisance_caveats(tuned: Sequence[Tuned], nuisance: Sequence[str]) -> list[str]:
    """That the best of several values was picked by the very losses that are shown."""
    uncorrected = [one for one in tuned if one.optimism is None]
    if not uncorrected:
        return []
    return [
        f"{len(uncorrected)} of {len(tuned)} shapes have one seed: picked as the lowest of several values of "
        f"{listed(nuisance)}, their losses read too low. With `seeds: 2` or more that is corrected for."
    ]


def undecided_caveats(points: Sequence[Point], most_seeds: int | None) -> list[str]:
    """Of a study that gives further seeds where they matter: what as many as it may give did not decide."""
    if most_seeds is None:
        return []
    undecided = [
        point.label
        for point in points
        if len(point.samples) >= most_seeds and SURELY_OFF < (point.p_frontier or 0.0) < SURELY_ON
    ]
    if not undecided:
        return []
    are = f"{'are' if len(undecided) > 1 else 'is'} neither surely on the frontier nor surely off it"
    return [f"{listed(undecided, most=6)} {are} at {most_seeds} seeds: a larger `seeds.max` may decide."]


def _epoch_caveats(finals: Sequence[FinalLine]) -> list[str]:
    epochs = [float(r.environment.get("epochs") or 0) for r in finals]
    repeated = [value for value in epochs if value > 1]
    if not repeated:
        return []
    return [
        f"{len(repeated)} of {len(finals)} trials passed over their data more than once "
        f"(up to {max(repeated):.1f} times): larger configs profit from it less. Use more data, or fewer "
        "tokens."
    ]


def _left_out_caveats(m: Measured) -> list[str]:
    return [
        f"The {name} changed between trials: {count} older {'record is' if count == 1 else 'records are'} "
        "left out. `sweeper run --fresh` measures all again."
        for name, count in m.left_out.items()
        if name != "resolution"
    ]


def _window_caveats(records: Sequence[MeasuredLine]) -> list[str]:
    spreads = [
        (speed.high - speed.low) / speed.tokens_per_s
        for record in records
        if (speed := record.speed) and speed.tokens_per_s > 0
    ]
    wide = [spread for spread in spreads if spread > WIDE_WINDOWS]
    if not wide:
        return []
    return [
        f"Speed swung within {len(wide)} of {len(spreads)} jobs (windows up to {max(wide):.0%} apart): other "
        "work on the device, or throttling. Measure on a quiet machine."
    ]


def _learning_rate_caveats(configs: Sequence[Config], losses: AdditiveFit) -> list[str]:
    """Where the learning rate is an axis: configs whose best rate lies at an end of those tried. Else, one for all."""
    measured = [config for config in configs if config.config_id in losses]
    if all(len(group) == 1 for group in _by_rate(configs)):
        return unscaled_caveats(measured)
    groups = _by_rate(measured)
    edges = []
    for group in groups:
        lowest = min(group, key=lambda config: losses.mean(config.config_id).value)
        rates, best = sorted(map(_rate, group)), _rate(lowest)
        if len(rates) > 1 and best in (rates[0], rates[-1]):
            edges.append(f"{best:g}")
    if not edges:
        return []
    rates_at_edge = listed(sorted(set(edges)))
    return [
        f"The best learning rate of {len(edges)} of {len(groups)} configs is at an end of those tried "
        f"({rates_at_edge}): widen the axis, or it is the rate that is ranked."
    ]


def _rate(config: Config) -> float:
    return config.optimizer.lr if config.optimizer else 0.0


def _by_rate(configs: Sequence[Config]) -> list[set[Config]]:
    """The configs that differ in nothing but the learning rate."""
    groups: dict[Config, set[Config]] = {}
    for config in configs:
        optimizer = config.optimizer
        same = config if optimizer is None else config.with_recipe(optimizer=replace(optimizer, lr=1.0))
        groups.setdefault(same, set()).add(config)
    return list(groups.values())


def _notes(finals: Sequence[FinalLine]) -> list[str]:
    """What trials noted, said once where notes differ in their numbers only; epochs have their own doubt."""
    alike: dict[str, list[str]] = {}
    for record in finals:
        for note in dict.fromkeys(record.notes):
            if "passed over its data" not in note:
                alike.setdefault(re.sub(r"[\d.]+", "#", note), []).append(note.rstrip("."))
    return [f"{notes[0][:1].upper()}{notes[0][1:]} ({len(notes)} of {len(finals)} trials)." for notes in alike.values()]


def held_equal(configs: Sequence[Config], tokens: Mapping[Config, int]) -> str:
    """One sentence: what all trials were given alike (tokens, time, FLOPs, tokens per parameter), and what not.

    `tokens` are those of the configs of which they are known: steps of `minutes` are only known from a probe.
    """
    known = [(config, tokens[config]) for config in configs if config in tokens]
    minutes = {config.minutes for config in configs}
    held_time = "" if None in minutes or len(minutes) > 1 else f"{minutes.pop():g} min of training"
    if not known:
        return (
            f"Held equal: time, {held_time} for each trial."
            if held_time
            else "Nothing is known of how long trials were."
        )
    trained = [t for _, t in known]
    flops = [t * per_token for config, t in known if (per_token := config.flops_per_token) is not None]
    same_flops = len(flops) == len(known) and _alike(flops)
    ratios = [t / config.shape.params.total for config, t in known]
    if len(flops) < len(known):
        spent = "FLOPs that aren't known"
    else:
        spent = f"{short(min(flops))} FLOPs" if same_flops else f"{short(min(flops))}–{short(max(flops))} FLOPs"
    of_tokens = f"{short(min(trained))}–{short(max(trained))} tokens"
    if held_time:
        return f"Held equal: time, {held_time} for each trial; not equal tokens ({of_tokens}) or compute ({spent})."
    if len(set(trained)) == 1:
        compute = "" if same_flops else ", not equal compute"
        return f"Held equal: tokens, {short(trained[0])} for each trial{compute} ({spent}), not equal time."
    if same_flops:
        return f"Held equal: compute, {spent} for each trial; not equal tokens ({of_tokens}), not equal time."
    if _alike(ratios):
        return f"Held equal: tokens per parameter, {short(ratios[0])}; not equal tokens ({of_tokens}), compute or time."
    return f"Nothing was held equal: trials had {of_tokens} and {spent}."


def _alike(values: Sequence[float]) -> bool:
    return max(values) <= 1.03 * min(values)
