"""What to train: the guide's four use cases answered from what a study measured, under the limits that are given.

A config that was measured is chosen by its means, and called a tie with every other that isn't shown to be worse. For
quality the fastest is chosen of those that are tied: a slower one would cost time for nothing that is shown. One that
diverged for a seed is never chosen while there is another. One that is only predicted is chosen where it is shown to be
better than the best measured one (the 95% interval of the difference leaves out zero), or where no measured one keeps
the limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from sweeper.frontier.answer import finished_text, main_device
from sweeper.ledger.typed import FinalLine, Line
from sweeper.model.shape import Shape, llama_config
from sweeper.recommend.choices import Choice, Described, Recommendation, Rival, ToBeSure, UseCase
from sweeper.recommend.criteria import QUALITY, SPEED, Criterion, Lead, at_stake, is_tie, knee
from sweeper.recommend.limits import GUIDE, Limits
from sweeper.recommend.options import Figure, Option, Options, ladder_of, options
from sweeper.recommend.train_flags import train_words
from sweeper.values.errors import NothingFeasible, UsageError
from sweeper.values.labels import gibibytes, short
from sweeper.values.records import Config

if TYPE_CHECKING:
    from sweeper.frontier.frontiers import DeviceFrontier, Frontier
    from sweeper.planning.plan import Plan
    from sweeper.study.schema import Study

MOST_LOOKED_AT = 200
"""Of the predicted configs, those with the best scores that are compared with what was measured."""


def frontier_on(found: Frontier, name: str | None) -> DeviceFrontier:
    """The frontier of the device type that `name` means: its name or a part of it; else that with most points."""
    there = [one for one in found.frontiers if one.points]
    if not there:
        raise NothingFeasible(f"{found.study}: none of the {found.planned} planned points has both a loss and a speed")
    if name is None:
        return main_device(found)
    meant = [one for one in there if one.device == name] or [
        one for one in there if name.casefold() in one.device.casefold()
    ]
    if len(meant) != 1:
        is_none = "no device type that was measured" if not meant else "more than one device type"
        raise UsageError(f"--device {name}: {is_none}; there are {', '.join(one.device for one in there)}")
    return meant[0]


def recommend(
    study: Study,
    plan: Plan,
    found: Frontier,
    records: Sequence[Line],
    limits: Limits,
    *,
    device: str | None = None,
    extrapolate: bool = False,
) -> Recommendation:
    """Answer all use cases from the frontier that was `found` in `records`.

    Raises NothingFeasible, naming the nearest config, where nothing keeps `limits`.
    """
    one = frontier_on(found, device)
    known = options(study, plan, one, extrapolate=extrapolate)
    _something_keeps(limits, known)
    chooser = _Chooser(study, plan, known, _seconds(records, one.device))
    return Recommendation(
        study=found.study,
        profile=found.profile,
        device=one.device,
        other_devices=tuple([other.device for other in found.frontiers if other is not one]),
        limits=limits,
        unstable=tuple([f"{p.label} ({finished_text(p)})" for p in one.points if p.diverged]),
        points=len(one.points) + sum(len(shape.levels) - 1 for shape in one.tuned),
        feasible=known.feasible,
        predicted=len(known.predicted),
        outside=known.outside,
        unseen=known.unseen,
        extrapolated=extrapolate,
        surrogates={
            name: {
                "known": model.known,
                "dimensions": list(model.dimensions),
                "reach": model.space.reach,
                "covered": model.covered,
                "explained": model.explained,
                "doubt": model.doubt,
            }
            for name, model in known.surrogates.items()
        },
        choices=tuple([chooser.choose(use_case, limits) for use_case in get_args(UseCase)]),
    )


def _seconds(records: Sequence[Line], device: str) -> dict[str, float]:
    """Device-seconds of a trial, by config id."""
    each: dict[str, list[float]] = {}
    for record in records:
        if isinstance(record, FinalLine) and record.status == "ok" and record.device == device:
            spent = sum(seconds for name, seconds in record.seconds.items() if name != "reference")
            each.setdefault(record.config_id, []).append(spent)
    return {config_id: sum(spent) / len(spent) for config_id, spent in each.items()}


def _something_keeps(limits: Limits, known: Options) -> None:
    if any(not option.missed(limits) for option in known.measured) or len(known.keeping(limits)):
        return
    nearest = _nearest(limits, known)
    figures = nearest.params, nearest.tokens_per_s.mean, nearest.memory_bytes
    predicted = f", and none of {len(known.predicted):,} predicted," if len(known.predicted) else ""
    raise NothingFeasible(
        f"none of {len(known.measured)} measured configs{predicted} keeps {' '.join(limits.flags())}. The nearest is "
        f"{known.label(nearest)} ({'measured' if nearest.point else 'predicted'}) with {short(figures[0], 4)} "
        f"parameters, {short(figures[1])} tokens/s and {gibibytes(figures[2])}: "
        f"{' '.join(limits.loosened(*figures))} would let it in"
    )


def _nearest(limits: Limits, known: Options) -> Option:
    """The config that misses the limits by the least ratio."""
    candidates = list(known.measured)
    if len(known.predicted):
        speeds = np.exp(known.log_speeds[0])
        missed = limits.missed(known.predicted.params, speeds, known.predicted.memory_bytes)
        candidates.append(known.predicted_option(int(np.argmin(missed))))
    return min(candidates, key=lambda option: option.missed(limits))


def _unit(criterion: Criterion) -> Literal["nats", "log tokens/s", "chord"]:
    return "nats" if criterion == QUALITY else "log tokens/s" if criterion == SPEED else "chord"


class _Chooser:
    """Answers one use case after the other."""

    def __init__(self, study: Study, plan: Plan, known: Options, seconds: Mapping[str, float]) -> None:
        self._study, self._plan, self._known, self._seconds = study, plan, known, seconds

    def choose(self, use_case: UseCase, given: Limits) -> Choice:
        limits, assumed = given, []
        needed = {"quality": "max_params", "memory": "max_memory_bytes"}.get(use_case)
        if needed is not None and getattr(given, needed) is None:
            limits = replace(given, **{needed: GUIDE[needed]})
            assumed = [needed]
        blank = Choice(use_case=use_case, limits=limits, assumed=tuple(assumed))
        pool = self._fastest_of_each([option for option in self._known.measured if not option.missed(limits)])
        rows = self._known.keeping(limits)
        if not pool and not len(rows):
            nearest = _nearest(limits, self._known)
            return replace(blank, why=f"nothing fits; the nearest is {self._known.label(nearest)}")
        if use_case != "balanced":
            return self._by(SPEED if use_case == "fastest" else QUALITY, blank, pool, rows)
        if not pool:
            return replace(blank, why="nothing measured keeps the limits, and a knee needs measured ends")
        return self._balanced(blank, pool, rows)

    @staticmethod
    def _fastest_of_each(pool: Sequence[Option]) -> list[Option]:
        """Of a config's micro-batches the fastest."""
        by_speed = sorted(pool, key=lambda option: option.tokens_per_s.mean)
        return list({option.config.config_id: option for option in by_speed}.values())

    def _balanced(self, blank: Choice, pool: list[Option], rows: Any) -> Choice:
        """The knee between the fastest and the best in loss, or where there is no such thing the fastest."""
        fastest = self._believable_fastest(pool)[0]
        best = max(pool, key=lambda option: option.score(QUALITY))
        if fastest is best:
            same = "the fastest has the lowest loss as well: there is nothing to balance"
            return replace(self._by(SPEED, blank, pool, rows), why=same)
        if is_tie(QUALITY, self._known.lead(QUALITY, best, fastest)):
            label = self._known.label(best)
            why = f"the lowest loss, of {label}, can't be told from that of the fastest: there is nothing to balance"
            return replace(self._by(SPEED, blank, pool, rows), why=why)
        assert fastest.point is not None
        assert best.point is not None
        criterion = knee(fastest.point, best.point)
        ends = " and ".join(self._known.label(option) for option in (fastest, best))
        between = [option for option in pool if option is not fastest and option is not best]
        middle = max(between, key=lambda option: option.score(criterion), default=None)
        if middle is None or self._known.lead(criterion, fastest, middle).sure:
            return replace(blank, why=f"no knee: no measured config comes up to the chord between {ends}")
        found = self._by(criterion, blank, pool, rows, top=middle)
        return replace(found, why=f"farthest from the chord between {ends}")

    def _believable_fastest(self, pool: list[Option]) -> list[Option]:
        """Those whose speed can't be told from the fastest's and whose loss isn't shown to be worse than that of
        another of them: the fastest first.
        """
        top = max(pool, key=lambda option: option.score(SPEED))
        near = [o for o in pool if o is top or is_tie(SPEED, self._known.lead(SPEED, top, o))]
        kept = [o for o in near if not any(self._known.lead(QUALITY, other, o).sure for other in near)]
        return sorted(kept, key=lambda option: -option.score(SPEED))

    def _fastest_of_equals(self, pool: list[Option]) -> Option:
        """Of those whose loss isn't shown to be worse than another's: the lowest, or a surely faster one."""
        lowest = max(pool, key=lambda option: option.score(QUALITY))
        equals = [o for o in pool if o is lowest or not any(self._known.lead(QUALITY, p, o).sure for p in pool)]
        quickest = max(equals, key=lambda option: option.score(SPEED))
        return lowest if is_tie(SPEED, self._known.lead(SPEED, quickest, lowest)) else quickest

    def _by(
        self, criterion: Criterion, blank: Choice, pool: list[Option], rows: Any, top: Option | None = None
    ) -> Choice:
        """By one criterion `top`, or the best of `pool`; or a predicted config that is shown to be better."""
        by_score = top or max(pool, key=lambda option: option.score(criterion), default=None)
        if top is None and pool:
            top = self._believable_fastest(pool)[0] if criterion is SPEED else self._fastest_of_equals(pool)
        ahead = self._predicted_ahead(criterion, rows)
        shown = [o for o in ahead if by_score is None or self._known.lead(criterion, o, by_score).sure]
        if shown:
            return self._answer(criterion, blank, shown[0], [*pool, *ahead[1:]])
        assert top is not None
        assert by_score is not None
        found = self._answer(criterion, blank, top, pool)
        if not ahead or ahead[0].score(criterion) <= by_score.score(criterion):
            return found
        return replace(found, promising=self._rival(criterion, top, ahead[0]))

    def _predicted_ahead(self, criterion: Criterion, rows: Any) -> list[Option]:
        """The predicted configs with the best scores, best first."""
        known = self._known
        scores = criterion.speed * known.log_speeds[0][rows] - criterion.loss * known.losses[0][rows]
        best = rows[np.argsort(-scores, kind="stable")[:MOST_LOOKED_AT]]
        return [known.predicted_option(int(row)) for row in best]

    def _answer(self, criterion: Criterion, blank: Choice, top: Option, others: Sequence[Option]) -> Choice:
        leads = {o: self._known.lead(criterion, top, o) for o in others if o is not top}
        tied = [o for o, found in leads.items() if is_tie(criterion, found)]
        if criterion is SPEED and top.point is not None:
            kept = self._believable_fastest([top, *tied])
            tied = [o for o in tied if o in kept]
        behind = [o for o, found in leads.items() if found.sure and not is_tie(criterion, found)]
        tied, behind = (sorted(some, key=lambda o: -o.score(criterion)) for some in (tied, behind))
        lowest = max([top, *tied], key=lambda o: o.score(QUALITY))
        argv, trained = self._command(top)
        runner_up = self._runner_up(criterion, behind)
        return replace(
            blank,
            choice=self._described(top),
            tied_with=tuple([self._rival(criterion, top, o) for o in tied]),
            lowest_loss=self._rival(QUALITY, top, lowest) if criterion is QUALITY and lowest is not top else None,
            runner_up=None if runner_up is None else self._rival(criterion, top, runner_up),
            to_be_sure=self._to_be_sure(criterion, top, tied, leads),
            notes=tuple(self._notes(top, blank.limits, trained)),
            argv=tuple(argv),
            trained_as=trained.config_id,
            llama_config=_llama_config(top.config),
        )

    def _runner_up(self, criterion: Criterion, behind: list[Option]) -> Option | None:
        """The best of those that the choice is shown to be ahead of, a measured one where there is any."""
        measured = [option for option in behind if option.point is not None]
        if criterion is SPEED and measured:
            return self._believable_fastest(measured)[0]
        return next(iter(measured or behind), None)

    def _rival(self, criterion: Criterion, top: Option, other: Option) -> Rival:
        found = self._known.lead(criterion, top, other)
        ahead = Figure(mean=found.value, low=found.low, high=found.high)
        return Rival(config=self._described(other), ahead=ahead, unit=_unit(criterion))

    def _described(self, option: Option) -> Described:
        point = option.point
        return Described(
            label=self._known.label(option),
            config_id=option.config.config_id,
            config=option.config,
            batch_size=option.batch_size,
            params=option.params,
            val_loss=option.val_loss,
            tokens_per_s=option.tokens_per_s,
            memory_bytes=option.memory_bytes,
            memory_basis="measured" if option.memory_measured else "predicted",
            basis="predicted" if point is None else "measured",
            seeds=0 if point is None else len(point.samples),
            p_frontier=None if point is None else point.p_frontier,
        )

    def _to_be_sure(
        self, criterion: Criterion, top: Option, tied: Sequence[Option], leads: Mapping[Option, Lead]
    ) -> ToBeSure:
        if top.point is None:
            seeds = self._study.trial.first_seeds
            return ToBeSure(how="run it", seeds=seeds, trials=seeds, device_s=seeds * self._seconds_of(top))
        measured = [o for o in tied if o.point is not None]
        if not measured:
            return ToBeSure(how="nothing")
        stakes = {option: at_stake(leads[option]) for option in measured}
        rival = max(measured, key=lambda option: stakes[option] or 0.0)
        name = self._known.label(rival)
        if all(leads[option].sure or leads[option].reversed for option in measured):
            return ToBeSure(how="negligible", rival=name)
        tied_points = [option.point for option in (top, *measured) if option.point is not None]
        have = max(len(point.samples) for point in tied_points)
        return ToBeSure(
            how="further seeds",
            rival=name,
            at_stake=stakes[rival],
            unit=_unit(criterion),
            seeds=have + 1,
            trials=sum(have + 1 - len(point.samples) for point in tied_points),
            device_s=sum(
                (have + 1 - len(option.point.samples)) * self._seconds_of(option)
                for option in (top, *measured)
                if option.point is not None
            ),
        )

    def _seconds_of(self, option: Option) -> float:
        known = self._seconds.get(option.config.config_id)
        return self._plan.calibration.seconds(option.config) or 0.0 if known is None else known

    def _notes(self, top: Option, limits: Limits, trained: Config) -> list[str]:
        notes = []
        least = limits.min_tokens_per_s
        if least is not None and (top.tokens_per_s.low is None or top.tokens_per_s.low < least):
            low = "unknown" if top.tokens_per_s.low is None else f"{short(top.tokens_per_s.low)} tokens/s"
            notes.append(f"its speed keeps --min-tokens-per-s by the mean alone: the interval's lower end is {low}")
        if trained != top.config:
            notes.append(
                "the study leaves open what probes settle (precision auto, minutes): the command names what came out, "
                f"which makes config_id {trained.config_id} of {top.config.config_id}"
            )
        return notes

    def _command(self, option: Option) -> tuple[list[str], Config]:
        """The words that train it, and the config that this is: what was resolved by measuring is named.

        No words for another kind than a shape, which `sweeper train` doesn't build.
        """
        resolved = {} if option.point is None else option.point.resolved
        config = option.config
        if "precision" in resolved:
            config = config.at_precision(resolved["precision"])
        if "steps" in resolved:
            config = config.with_recipe(steps=resolved["steps"], minutes=None)
        if not isinstance(config.shape, Shape):
            return [], config
        ladder = ladder_of(self._study) if option.point is None else ()
        path = self._plan.data_path
        words = train_words(
            config,
            batch_sizes=ladder or (option.batch_size,),
            compiled=self._study.trial.compile,
            data_path=None if path is None else Path(path),
        )
        return words, config


def _llama_config(config: Config) -> dict[str, Any] | None:
    """None of another kind than a shape."""
    if not isinstance(config.shape, Shape) or config.recipe is None:
        return None
    return llama_config(config.shape, seq_len=config.recipe.seq_len)
