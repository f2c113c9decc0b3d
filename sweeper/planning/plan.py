"""What a study will do: its feasible configs, exact; what was dropped and why; what it will cost."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TextIO, overload

from sweeper.model.shape import Params
from sweeper.planning.estimates import Calibration, assumed, branch_tokens, memory_of
from sweeper.planning.lattice import Lattice, LatticePoint
from sweeper.planning.notes import follow_up_note, notes
from sweeper.planning.solver import Drop, Window
from sweeper.planning.train_tokens import TokensOf, TrainTokens
from sweeper.study.schema import Ladder, LoadedStudy, Study
from sweeper.values.errors import NothingFeasible
from sweeper.values.kinds import kind_fields
from sweeper.values.records import SCHEMA, Base, Config, Execution, Optimizer, Recipe, probe_id

if TYPE_CHECKING:
    from sweeper.planning.feasible import Feasible, Group
    from sweeper.planning.totals import Totals

MOST_AVERAGED = 200
"""Of more configs, the first are what the cost of follow-ups is estimated by."""
MAX_LISTED = 10_000
"""Above this many configs the JSON's list is cut and says so; the CSV has them all."""


@dataclass(frozen=True, kw_only=True)
class LatticeCounts:
    """`points` = `feasible` + all of `dropped` (reason → points), reasons by how often they hold.

    A feasible point is a config at a micro-batch, or at the fastest of a ladder.
    """

    points: int
    feasible: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class PlannedConfig:
    """A feasible config. `executions`: one, or one per feasible value of a `batch_size` axis, in its order.

    `choose` is fastest where they are the rungs of a ladder, ascending: the config is trained and ranked at the
    fastest. `off_target` is a signed fraction of the target, None without one; `memory_bytes` that of the largest
    micro-batch, of a ladder that of the smallest; `tokens` of one seed, an estimate where the recipe gives minutes;
    `branch_tokens` what its branches take beside them; `seconds` predicted for one seed, branches included; `epochs`
    passes over the data. None where unknown, as FLOPs, memory, tokens and seconds may be of a kind that isn't ours.
    """

    config: Config
    executions: tuple[Execution, ...]
    choose: Literal["each", "fastest"]
    params: Params
    off_target: float | None
    train_flops_per_token: int | None
    memory_bytes: int | None
    tokens: int | None
    branch_tokens: int
    seconds: float | None
    epochs: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The feasible configs in the lattice's order, and what is said about them.

    Above MAX_LISTED configs they are put together anew whenever they are looked at.

    `dropped_examples` has each reason's first message; `data_path` is where the data lies, None for an
    embedded corpus; `notes` are sentences on what is settled while the study runs.
    """

    study: str
    profile: str
    lattice: LatticeCounts
    configs: Sequence[PlannedConfig]
    dropped_examples: Mapping[str, str]
    calibration: Calibration
    data_path: str | None
    totals: Totals
    notes: tuple[str, ...]


def make_plan(
    loaded: LoadedStudy,
    *,
    cpus: int,
    gpus: int | None = None,
    calibration: Calibration | None = None,
    train_tokens: TokensOf | None = None,
) -> Plan:
    """Plan a study under its profile. `cpus` and `gpus` are those of a job where the study gives none.

    Raises NothingFeasible with each reason's count and first message, UsageError where the study can't be
    planned at all.
    """
    from sweeper.planning.feasible import feasible
    from sweeper.planning.totals import totals

    study = loaded.study
    resources = study.resources
    job_gpus = resources.gpus if resources.gpus is not None else gpus or 0
    speed = calibration or assumed(gpus=job_gpus, cpus=resources.cpus or cpus)
    lattice = Lattice(study, beside_bytes=speed.beside_bytes)
    found = feasible(lattice)
    counts = LatticeCounts(points=lattice.size, feasible=len(found.points), dropped=found.tally.commonest_first())
    examples = {reason: _example(lattice, reason, found.tally.first[reason]) for reason in counts.dropped}
    if not len(found):
        raise NothingFeasible(_nothing(loaded, counts, examples))
    held = _Held(train_tokens)
    configs: Sequence[PlannedConfig] = PlannedConfigs(lattice, found, _Planner(study, lattice.window, speed, held))
    if len(configs) <= MAX_LISTED:
        configs = tuple(configs)
    return Plan(
        study=study.name,
        profile=loaded.profile,
        lattice=counts,
        configs=configs,
        dropped_examples=examples,
        calibration=speed,
        data_path=None if loaded.data_path is None else str(loaded.data_path),
        totals=totals(study, found, speed, held, probes=_probes(configs, all_of_them=study.search.prune)),
        notes=(
            *notes(study, found.groups, lattice.cap),
            *follow_up_note(study, [one.config for one in configs[:MOST_AVERAGED]], speed),
        ),
    )


def _example(lattice: Lattice, reason: str, index: int) -> str:
    """What is said of the point at `index`, dropped for `reason`."""
    point = lattice.at(index)
    if isinstance(point, Drop):
        return point.message()
    return f"{_named(point.config)} is reached twice; it is planned once"


def _named(config: Config) -> str:
    return config.shape.label()


def _nothing(loaded: LoadedStudy, counts: LatticeCounts, examples: Mapping[str, str]) -> str:
    points = "the one point" if counts.points == 1 else f"any of the {counts.points:,} points"
    lines = [f"nothing is feasible in {points} of {loaded.study.name} (profile {loaded.profile}):"]
    lines += [f"  {number:,} × {reason}: {examples[reason]}" for reason, number in counts.dropped.items()]
    return "\n".join(lines)


class _Held:
    """What the data holds, asked once per data and vocabulary."""

    def __init__(self, train_tokens: TokensOf | None) -> None:
        self._train_tokens = train_tokens
        self._known: dict[tuple[str, int], TrainTokens | None] = {}

    def __call__(self, data: str, vocab_size: int) -> TrainTokens | None:
        if self._train_tokens is None:
            return None
        key = (data, vocab_size)
        if key not in self._known:
            self._known[key] = self._train_tokens(data, vocab_size)
        return self._known[key]


class _Planner:
    """Puts figures to a feasible config."""

    def __init__(self, study: Study, window: Window | None, speed: Calibration, held: TokensOf) -> None:
        self._trial = study.trial
        self._choose: Literal["each", "fastest"] = "fastest" if isinstance(self._trial.batch_size, Ladder) else "each"
        self._window = window
        self._speed = speed
        self._held = held

    def planned(self, config: Config, batch_sizes: list[int]) -> PlannedConfig:
        (shape, recipe), window = config.ours, self._window
        held = self._held(recipe.data, shape.vocab_size)
        per_token = shape.train_flops_per_token(recipe.seq_len)
        tokens = self._speed.tokens(per_token, recipe)
        epochs = tokens / held.tokens if held is not None and held.tokens else None
        told_of = min(batch_sizes) if self._choose == "fastest" else max(batch_sizes)
        return PlannedConfig(
            config=config,
            executions=tuple([Execution(batch_size=b, compile=self._trial.compile) for b in batch_sizes]),
            choose=self._choose,
            params=shape.params,
            off_target=None if window is None else window.off_target(window.counted(shape)),
            train_flops_per_token=per_token,
            memory_bytes=memory_of(config, told_of) + self._speed.beside_bytes,
            tokens=tokens,
            branch_tokens=int(branch_tokens(tokens, recipe, self._trial.branch_at)),
            seconds=self._speed.seconds(config, self._trial.branch_at),
            epochs=epochs,
            warnings=tuple(self._warnings(config, tokens, held)),
        )

    def _warnings(self, config: Config, tokens: int, held: TrainTokens | None) -> list[str]:
        shape, recipe = config.ours
        warnings = shape.fp8_warnings() if recipe.precision in ("fp8", "auto") else []
        if held is not None and held.tokens and tokens > held.tokens:
            asked = "" if recipe.minutes is None else "about "
            about = "" if held.exact else "about "
            times = f"{about or asked}{tokens / held.tokens:.1f} times"
            of = f"({asked}{tokens:,} of {about}{held.tokens:,} tokens)"
            warnings.append(f"passes over its data {times} {of}")
        return warnings


class PlannedConfigs(Sequence[PlannedConfig]):
    """The configs of a lattice with so many that each is put together when it is looked at."""

    def __init__(self, lattice: Lattice, found: Feasible, planner: _Planner) -> None:
        self._lattice, self._found, self._planner = lattice, found, planner

    @property
    def groups(self) -> tuple[Group, ...]:
        """The same configs in columns."""
        return self._found.groups

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, which: int) -> PlannedConfig: ...

    @overload
    def __getitem__(self, which: slice) -> tuple[PlannedConfig, ...]: ...

    def __getitem__(self, which: int | slice) -> PlannedConfig | tuple[PlannedConfig, ...]:
        if isinstance(which, slice):
            return tuple([self[n] for n in range(*which.indices(len(self)))])
        n = range(len(self))[which]
        first, end = self._found.starts[n : n + 2].tolist()
        points = [self._lattice.at(index) for index in self._found.points[first:end].tolist()]
        made = [point for point in points if isinstance(point, LatticePoint)]
        return self._planner.planned(made[0].config, [size for point in made for size in point.batch_sizes])


def _probes(configs: Sequence[PlannedConfig], *, all_of_them: bool) -> int:
    """How many speed jobs there can be: one for each micro-batch and precision that has to be known, or can be.

    Of more than MAX_LISTED configs, as many as these would have if all were like the first.
    """
    if len(configs) > MAX_LISTED:
        return _probes(configs[:1], all_of_them=all_of_them) * len(configs)
    wanted: dict[str, int] = {}
    for planned in configs:
        config, executions = planned.config, planned.executions
        is_auto = config.precision == "auto"
        if all_of_them or len(executions) > 1 or is_auto or config.minutes is not None:
            for probed in (config.at_precision("bf16"), config.at_precision("fp8")) if is_auto else (config,):
                shared = probe_id(probed, executions[0])
                wanted[shared] = max(len(executions), wanted.get(shared, 0))
    return sum(wanted.values())


def plan_json(plan: Plan) -> dict[str, Any]:
    """What `sweeper plan --json` prints; `"cut"` says whether `configs` has been cut to MAX_LISTED."""
    return {
        "schema": SCHEMA,
        "study": plan.study,
        "profile": plan.profile,
        "lattice": asdict(plan.lattice),
        "configs": [_config_json(planned) for planned in plan.configs[:MAX_LISTED]],
        "cut": len(plan.configs) > MAX_LISTED,
        "totals": asdict(plan.totals),
        "messages": dict(plan.dropped_examples),
        "notes": list(plan.notes),
        "estimate": asdict(plan.calibration),
        "data_path": plan.data_path,
    }


def _config_json(planned: PlannedConfig) -> dict[str, Any]:
    return {
        "config_id": planned.config.config_id,
        **planned.config.to_dict(),
        "executions": [asdict(execution) for execution in planned.executions],
        "choose": planned.choose,
        "params": asdict(planned.params),
        "off_target": planned.off_target,
        "train_flops_per_token": planned.train_flops_per_token,
        "memory_bytes": planned.memory_bytes,
        "tokens": planned.tokens,
        "branch_tokens": planned.branch_tokens,
        "seconds": planned.seconds,
        "epochs": planned.epochs,
        "warnings": list(planned.warnings),
    }


def plan_csv(plan: Plan, file: TextIO) -> None:
    """Write every config as a row of `file`: its id, shape, recipe, counts and estimates."""
    writer: csv.DictWriter[str] | None = None
    for planned in plan.configs:
        row = _row(planned)
        if writer is None:
            writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)


def _row(planned: PlannedConfig) -> dict[str, Any]:
    """The same columns for every config: what doesn't apply to a recipe is empty."""
    plain = _config_json(planned)
    recipe = dict.fromkeys(field.name for field in fields(Recipe)) | (
        asdict(planned.config.recipe) if planned.config.recipe else {}
    )
    optimizer = recipe.pop("optimizer") or dict.fromkeys(field.name for field in fields(Optimizer))
    base = optimizer.pop("base") or dict.fromkeys(field.name for field in fields(Base))
    optimizer["betas"] = " ".join(map(str, optimizer["betas"] or ()))
    estimates = ("off_target", "train_flops_per_token", "memory_bytes", "tokens", "branch_tokens", "seconds", "epochs")
    return {
        "config_id": plain["config_id"],
        **kind_fields(plain),
        **recipe,
        **{f"optimizer_{name}": value for name, value in optimizer.items()},
        **{f"optimizer_base_{name}": value for name, value in base.items()},
        "batch_sizes": " ".join(str(execution.batch_size) for execution in planned.executions),
        "choose": planned.choose,
        **{f"params_{name}": value for name, value in plain["params"].items()},
        **{name: plain[name] for name in estimates},
        "warnings": "; ".join(planned.warnings),
    }
