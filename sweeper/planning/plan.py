"""What a study will do: its feasible configs, exact; what was dropped and why; what it will cost."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from model.shape import Params
from sweeper.errors import NothingFeasible
from sweeper.planning.estimates import Calibration, assumed, memory_bytes
from sweeper.planning.lattice import Lattice
from sweeper.planning.solver import Drop, Window
from sweeper.records import SCHEMA, Config, Execution
from sweeper.study.schema import LoadedStudy, Study

DUPLICATE = "same config as another point"

MAX_LISTED = 10_000
"""Above this many configs the JSON's list is cut and says so; the CSV has them all."""


@dataclass(frozen=True, kw_only=True)
class TrainTokens:
    """How many training tokens the data holds, None where unknown; `exact` or estimated, by `source`."""

    tokens: int | None
    exact: bool
    source: str


TokensOf = Callable[[str, int], TrainTokens | None]
"""Training tokens of a data name at a vocabulary size; None where nothing is known."""


@dataclass(frozen=True, kw_only=True)
class LatticeCounts:
    """`points` = `feasible` + all of `dropped` (reason → points), reasons by how often they hold.

    A feasible point is a config at a micro-batch.
    """

    points: int
    feasible: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class PlannedConfig:
    """A feasible config. `executions`: one, or one per feasible value of a `batch_size` axis, in its order.

    `off_target` is a signed fraction of the target, None without one; `memory_bytes` that of the largest
    micro-batch; `seconds` predicted for one seed; `epochs` passes over the data, None where unknown.
    """

    config: Config
    executions: tuple[Execution, ...]
    params: Params
    off_target: float | None
    train_flops_per_token: int
    memory_bytes: int
    seconds: float
    epochs: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Over all trials. `seconds` are of jobs one after another; `max_epochs` None where data is unknown.

    `probes` are short runs that measure speed alone, beside the trials: one per micro-batch of a config that has
    several. Tokens, FLOPs and seconds leave them out.
    Where the search tries fewer configs than are feasible, sums are those of as many average configs.
    """

    configs: int
    trials: int
    probes: int
    seeds: int
    tokens: int
    train_flops: int
    seconds: float
    max_epochs: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The feasible configs in the lattice's order, and what is said about them.

    `dropped_examples` has each reason's first message; `data_path` is where the data lies, None for an
    embedded corpus; `seeds` run from 0.
    """

    study: str
    profile: str
    lattice: LatticeCounts
    configs: tuple[PlannedConfig, ...]
    dropped_examples: Mapping[str, str]
    calibration: Calibration
    data_path: str | None
    seeds: int
    totals: Totals


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
    study = loaded.study
    lattice = Lattice(study)
    batches, dropped, examples = _sorted_points(lattice)
    counts = LatticeCounts(
        points=lattice.size,
        feasible=sum(map(len, batches.values())),
        dropped=dict(dropped.most_common()),
    )
    if not batches:
        raise NothingFeasible(_nothing(loaded, counts, examples))
    resources = study.resources
    job_gpus = resources.gpus if resources.gpus is not None else gpus or 0
    speed = calibration or assumed(gpus=job_gpus, cpus=resources.cpus or cpus)
    planner = _Planner(study, lattice.window, speed, train_tokens)
    configs = tuple([planner.planned(config, sizes) for config, sizes in batches.items()])
    return Plan(
        study=study.name,
        profile=loaded.profile,
        lattice=counts,
        configs=configs,
        dropped_examples=examples,
        calibration=speed,
        data_path=None if loaded.data_path is None else str(loaded.data_path),
        seeds=study.trial.seeds,
        totals=_totals(study, configs),
    )


def _sorted_points(lattice: Lattice) -> tuple[dict[Config, list[int]], Counter[str], dict[str, str]]:
    """Micro-batches by config, points dropped by reason, the first message of each reason."""
    batches: dict[Config, list[int]] = {}
    dropped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for point in lattice:
        if isinstance(point, Drop):
            dropped[point.reason] += 1
            if point.reason not in examples:
                examples[point.reason] = point.message()
        elif point.batch_size in (sizes := batches.setdefault(point.config, [])):
            dropped[DUPLICATE] += 1
            examples.setdefault(DUPLICATE, f"{_named(point.config)} is reached twice; it is planned once")
        else:
            sizes.append(point.batch_size)
    return batches, dropped, examples


def _named(config: Config) -> str:
    shape = config.shape
    return f"n_layers {shape.n_layers}, d_model {shape.d_model}, ffn_hidden {shape.ffn_hidden}"


def _nothing(loaded: LoadedStudy, counts: LatticeCounts, examples: Mapping[str, str]) -> str:
    points = "the one point" if counts.points == 1 else f"any of the {counts.points:,} points"
    lines = [f"nothing is feasible in {points} of {loaded.study.name} (profile {loaded.profile}):"]
    lines += [f"  {number:,} × {reason}: {examples[reason]}" for reason, number in counts.dropped.items()]
    return "\n".join(lines)


class _Planner:
    """Puts figures to a feasible config; what the data holds is asked once per data and vocabulary."""

    def __init__(self, study: Study, window: Window | None, speed: Calibration, train_tokens: TokensOf | None) -> None:
        self._trial = study.trial
        self._window = window
        self._speed = speed
        self._train_tokens = train_tokens
        self._held: dict[tuple[str, int], TrainTokens | None] = {}

    def planned(self, config: Config, batch_sizes: list[int]) -> PlannedConfig:
        shape, recipe, window = config.shape, config.recipe, self._window
        held = self._tokens_held(recipe.data, shape.vocab_size)
        epochs = recipe.tokens / held.tokens if held is not None and held.tokens else None
        return PlannedConfig(
            config=config,
            executions=tuple([Execution(batch_size=b, compile=self._trial.compile) for b in batch_sizes]),
            params=shape.params,
            off_target=None if window is None else window.off_target(window.counted(shape)),
            train_flops_per_token=shape.train_flops_per_token(recipe.seq_len),
            memory_bytes=memory_bytes(
                shape, precision=recipe.precision, batch_size=max(batch_sizes), seq_len=recipe.seq_len
            ),
            seconds=self._speed.seconds(config),
            epochs=epochs,
            warnings=tuple(self._warnings(config, held)),
        )

    def _tokens_held(self, data: str, vocab_size: int) -> TrainTokens | None:
        if self._train_tokens is None:
            return None
        key = (data, vocab_size)
        if key not in self._held:
            self._held[key] = self._train_tokens(data, vocab_size)
        return self._held[key]

    def _warnings(self, config: Config, held: TrainTokens | None) -> list[str]:
        recipe = config.recipe
        warnings = config.shape.fp8_warnings() if recipe.precision == "fp8" else []
        if held is not None and held.tokens and recipe.tokens > held.tokens:
            about = "" if held.exact else "about "
            times = f"{about}{recipe.tokens / held.tokens:.1f} times"
            of = f"({recipe.tokens:,} of {about}{held.tokens:,} tokens)"
            warnings.append(f"passes over its data {times} {of}")
        return warnings


def _totals(study: Study, configs: tuple[PlannedConfig, ...]) -> Totals:
    tried, search = len(configs), study.search
    if search.method == "random" and search.trials is not None:
        tried = min(tried, search.trials)
    seeds = study.trial.seeds
    tokens = sum(planned.config.recipe.tokens for planned in configs)
    flops = sum(planned.config.recipe.tokens * planned.train_flops_per_token for planned in configs)
    probes = sum(len(planned.executions) for planned in configs if len(planned.executions) > 1)
    epochs = [planned.epochs for planned in configs if planned.epochs is not None]
    return Totals(
        configs=tried,
        trials=tried * seeds,
        probes=probes * tried // len(configs),
        seeds=seeds,
        tokens=tokens * tried * seeds // len(configs),
        train_flops=flops * tried * seeds // len(configs),
        seconds=sum(planned.seconds for planned in configs) * tried * seeds / len(configs),
        max_epochs=max(epochs, default=None),
    )


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
        "estimate": asdict(plan.calibration),
        "data_path": plan.data_path,
    }


def _config_json(planned: PlannedConfig) -> dict[str, Any]:
    return {
        "config_id": planned.config.config_id,
        **planned.config.to_dict(),
        "executions": [asdict(execution) for execution in planned.executions],
        "params": asdict(planned.params),
        "off_target": planned.off_target,
        "train_flops_per_token": planned.train_flops_per_token,
        "memory_bytes": planned.memory_bytes,
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
    plain = _config_json(planned)
    optimizer = plain["recipe"].pop("optimizer")
    optimizer["betas"] = " ".join(map(str, optimizer["betas"]))
    return {
        "config_id": plain["config_id"],
        **plain["shape"],
        **plain["recipe"],
        **{f"optimizer_{name}": value for name, value in optimizer.items()},
        "batch_sizes": " ".join(str(execution.batch_size) for execution in planned.executions),
        **{f"params_{name}": value for name, value in plain["params"].items()},
        **{name: plain[name] for name in ("off_target", "train_flops_per_token", "memory_bytes", "seconds", "epochs")},
        "warnings": "; ".join(planned.warnings),
    }
