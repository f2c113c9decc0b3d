"""What `sweeper recommend` says: the use cases, then how each config that was chosen is trained."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from sweeper.report.open_table import wrapped
from sweeper.report.tables import loss_interval, speed_interval
from sweeper.values.labels import duration, gibibytes, listed, short

if TYPE_CHECKING:
    from sweeper.recommend.choices import Choice, Described, Recommendation, Rival, ToBeSure
    from sweeper.recommend.options import Figure

MOST_TIED = 4
_INDENT = "  "
_METRICS = {"val_loss": "loss", "tokens_per_s": "speed"}
_ASSUMED = {"max_params": "--max-params", "max_memory_bytes": "--max-memory"}


@dataclass(frozen=True, kw_only=True)
class _Text:
    found: Recommendation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        found, width = self.found, options.max_width
        yield Text(f"{found.study} · profile {found.profile} · {found.device}", style="bold")
        yield _filled(_about(found), width=width, by="")
        said: list[Choice] = []
        for choice in found.choices:
            yield Text()
            yield Text(_title(choice), style="bold")
            same = next((other for other in said if _same(choice, other)), None)
            yield _filled(_lines(choice, same), width=width)
            said.append(choice)
        for choice in _distinct(found.choices):
            assert choice.choice is not None
            yield Text()
            yield Text(f"To train {choice.choice.label}", style="bold")
            command = indent(continued(choice.argv, width=width - len(_INDENT)), _INDENT)
            yield Text(command, no_wrap=True, overflow="ignore")
            yield _filled([f"Hugging Face LlamaConfig: {json.dumps(choice.llama_config)}"], width=width)


def _filled(lines: Iterable[str], *, width: int, by: str = _INDENT) -> Text:
    """Lines wrapped and indented, without blanks at their ends."""
    return Text("\n".join(wrapped(line, width, by=by) for line in lines), no_wrap=True, overflow="ignore")


def recommendation_text(found: Recommendation) -> RenderableType:
    """All of it, as wide as the console."""
    return _Text(found=found)


def _about(found: Recommendation) -> Iterator[str]:
    """What it rests on."""
    if found.other_devices:
        yield f"Measured on {listed(found.other_devices)} too: --device NAME answers for it."
    if flags := found.limits.flags():
        yield f"Under {', '.join(flags)}."
    unmeasured = found.feasible - found.points
    yield f"{found.points} of {found.feasible:,} feasible configs are measured" + (
        "." if unmeasured <= 0 else f"; {_predicted(found)}"
    )
    for metric, model in found.surrogates.items():
        if model["covered"] is not None:
            yield (
                f"Predicting {_METRICS[metric]} from {listed(model['dimensions'])}: each measured config left out in "
                f"turn, the others explain {max(model['explained'], 0):.0%} of the variance, and "
                f"{model['covered']:.0%} of the 90% intervals hold."
            )
    if found.unstable:
        yield f"Not chosen while there is another, as they diverge: {listed(found.unstable)}."
    if found.unseen:
        yield f"{found.unseen:,} configs weren't looked at: they are too many."


def _predicted(found: Recommendation) -> str:
    doubts = [f"{_METRICS[name]}: {model['doubt']}" for name, model in found.surrogates.items() if model["doubt"]]
    if doubts:
        return f"others aren't predicted ({'; '.join(doubts)})."
    if found.extrapolated:
        beyond = f", {found.outside:,} of them beyond the measured ones (--extrapolate)"
        return f"{found.predicted:,} others are predicted{beyond}."
    if not found.outside:
        return f"the {found.predicted:,} others are predicted."
    where = f"{found.outside:,} are not, as they lie beyond the measured ones (--extrapolate predicts them)"
    return f"{found.predicted:,} others are predicted; {where}."


def _name(choice: Choice) -> str:
    limits = choice.limits
    return {
        "fastest": "Fastest prototyping",
        "balanced": "Balanced",
        "quality": f"Best quality under {short(limits.max_params or 0)} parameters",
        "memory": f"Best quality within {gibibytes(limits.max_memory_bytes or 0)}",
    }[choice.use_case]


def _title(choice: Choice) -> str:
    name = _name(choice)
    if choice.choice is None:
        return f"{name}: none"
    predicted = ", predicted" if choice.choice.basis == "predicted" else ""
    return f"{name}: {choice.choice.label}{predicted}{', a tie' if choice.tied_with else ''}"


def _same(a: Choice, b: Choice) -> bool:
    """Whether two use cases have one answer, so that it's said once."""
    if a.choice is None or b.choice is None:
        return False
    rivals = [[(r.config.label, r.unit) for r in one.tied_with] for one in (a, b)]
    return a.choice.label == b.choice.label and rivals[0] == rivals[1] and a.runner_up == b.runner_up


def _distinct(choices: Sequence[Choice]) -> list[Choice]:
    return list({choice.argv: choice for choice in reversed(choices) if choice.argv}.values())[::-1]


def _lines(choice: Choice, same: Choice | None) -> Iterator[str]:
    if choice.assumed:
        yield f"No {_ASSUMED[choice.assumed[0]]} is given: this is the guide's."
    if choice.why:
        yield _sentence(choice.why)
    if same is not None:
        yield f"This is the answer of “{_name(same)}”."
    if choice.choice is None or same is not None:
        return
    yield figures(choice.choice)
    if choice.tied_with:
        yield _ties(choice)
    if choice.lowest_loss is not None:
        yield _chosen_for_speed(choice.choice, choice.lowest_loss)
    if choice.runner_up is not None:
        runner_up = choice.runner_up
        yield f"Runner-up: {runner_up.config.label}{_basis(runner_up.config)}, {behind(runner_up)}."
    elif choice.tied_with:
        yield "No runner-up: nothing else that keeps the limits is shown to be worse."
    if choice.promising is not None:
        rival = choice.promising
        yield f"Not run, but predicted to be {ahead(rival)}: {rival.config.label}, which isn't shown; run it to know."
    if sure := _to_be_sure(choice.to_be_sure):
        yield sure
    for note in choice.notes:
        yield f"! {_sentence(note)}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _basis(one: Described) -> str:
    return " (predicted)" if one.basis == "predicted" else ""


def figures(one: Described) -> str:
    """Its figures, with their 95% intervals, on one line."""
    parts = [
        f"loss {loss_interval(one.val_loss)}",
        f"{speed_interval(one.tokens_per_s)} tokens/s",
        f"{short(one.params)} parameters",
        f"{gibibytes(one.memory_bytes)} ({one.memory_basis})",
        f"micro-batch {one.batch_size}",
        "predicted, not run" if one.basis == "predicted" else f"{one.seeds} {'seed' if one.seeds == 1 else 'seeds'}",
    ]
    if one.p_frontier is not None:
        parts.append(f"P(on frontier) {one.p_frontier:.0%}")
    return " · ".join(part.replace(" ± ", "\u00a0±\u00a0").replace(" tokens/s", "\u00a0tokens/s") for part in parts)


def _ties(choice: Choice) -> str:
    names = [f"{rival.config.label}{_basis(rival.config)}" for rival in choice.tied_with]
    unit = choice.tied_with[0].unit
    what = {"nats": "in loss", "log tokens/s": "in speed", "chord": "as compromises"}[unit]
    if any(rival.ahead.low is None for rival in choice.tied_with):
        return f"Without an estimate of the noise it can't be told from {listed(names, most=MOST_TIED)}."
    return f"Tied {what} with {listed(names, most=MOST_TIED)}: none is shown to be better or worse (95%)."


def _chosen_for_speed(chosen: Described, lowest: Rival) -> str:
    faster = chosen.tokens_per_s.mean / lowest.config.tokens_per_s.mean - 1
    return (
        f"The lowest mean loss is {lowest.config.label}'s, by {-lowest.ahead.mean:.3f} nats: within noise, and "
        f"{chosen.label} is {faster:.0%} faster."
    )


def behind(rival: Rival) -> str:
    """By how much a runner-up loses: "0.089 nats higher in loss [0.041, 0.137]"."""
    figure = rival.ahead
    if rival.unit == "log tokens/s":
        return f"{_slower(figure.mean)} slower{_interval(figure, _slower)}"
    if rival.unit == "nats":
        return f"{figure.mean:.3f} nats higher in loss{_interval(figure, lambda value: f'{value:.3f}')}"
    interval = _interval(figure, lambda value: f"{value:.2f}")
    return f"{figure.mean:.2f} nearer to the chord{interval} (1 is the side of its square)"


def ahead(rival: Rival) -> str:
    """By how much another is ahead of the choice, by the means."""
    value = -rival.ahead.mean
    if rival.unit == "log tokens/s":
        return f"{math.expm1(value):.1%} faster"
    return f"{value:.3f} nats lower in loss" if rival.unit == "nats" else f"{value:.2f} farther from the chord"


def _slower(value: float) -> str:
    return f"{-math.expm1(-value):.1%}"


def _interval(figure: Figure, said: Callable[[float], str]) -> str:
    return "" if figure.low is None or figure.high is None else f" [{said(figure.low)}, {said(figure.high)}]"


def _to_be_sure(sure: ToBeSure) -> str:
    """What may be lost and what would tell more, "" where it's settled."""
    cost = f"{sure.trials} trials, {duration(sure.device_s)} on one device"
    if sure.how == "run it":
        return f"To be sure: run it, {cost}."
    if sure.how == "negligible":
        return f"To be sure: nothing to do, as {sure.rival} differs by less than 1% at best."
    if sure.how != "further seeds":
        return ""
    if sure.at_stake is None or sure.unit is None:
        return f"To be sure: first a second seed of it and of all that are tied ({cost}), to know the noise."
    at_most = {
        "nats": f"{sure.at_stake:.3f} nats lower in loss",
        "log tokens/s": f"{math.expm1(sure.at_stake):.1%} faster",
        "chord": f"{sure.at_stake:.2f} farther from the chord",
    }[sure.unit]
    return f"At stake: {sure.rival} may be up to {at_most} (95%). One more seed of each that is tied: {cost}."


def continued(words: Sequence[str], *, width: int) -> str:
    """A command over several lines that a shell takes as one; a flag stays with its value."""
    pairs: list[str] = []
    for word in words:
        if pairs and not word.startswith("--") and pairs[-1].startswith("--") and " " not in pairs[-1]:
            pairs[-1] += f" {shlex.quote(word)}"
        else:
            pairs.append(shlex.quote(word))
    lines = [""]
    for pair in pairs:
        if lines[-1] and len(lines[-1]) + len(pair) + 3 > width:
            lines.append("  " + pair)
        else:
            lines[-1] += f" {pair}" if lines[-1] else pair
    return " \\\n".join(lines)
