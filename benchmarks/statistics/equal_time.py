"""Whether comparisons at equal training time hold, on synthetic studies whose loss curves are known.

    python benchmarks/statistics/equal_time.py [--studies N] [--seed S] [--out FILE]

A study has 6 configs with curves L(n) = E + A n^-α, true speeds over a given ratio, and branches at half of the
tokens, and at a quarter too where that ratio is above 1.8, as the studies that ship have. Losses of a trial at its
lengths share 80% of the variance of their noise, and all configs the effect of a seed, which differs by length. True
losses at the end spread over 2.5 to 6 times a trial's sd. Regimes and seeds were written before the method was first
run on them.

Counted: how often the 95% intervals of losses and of differences to the lowest hold the truth; how often the config
that is truly the best at equal time is ruled out; whether bounds are bounds. Exit code 1 where a criterion isn't met.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import RESULTS, provenance

from sweeper.stats.additive_fit import Observation, fit
from sweeper.stats.equal_time import CooledTrial, EqualTime, equal_time

CONFIGS = 6
TOKENS = 1_000_000
TRIAL_SD = 0.02
SHARED = 0.8
"""Of the variance of a trial's noise, what its lengths have in common."""
COVERAGE = (0.92, 0.98)
MOST_BEST_RULED_OUT = 0.05


@dataclass(frozen=True, kw_only=True)
class Regime:
    """`ratio` of the fastest speed to the slowest; `speed_sd` of one trial's log speed.

    `tradeoff`: the slower the better, on the whole.
    """

    name: str
    ratio: float
    seeds: int
    speed_sd: float
    tradeoff: bool = True


REGIMES = (
    *(
        Regime(name=f"ratio {ratio}, {seeds} seeds, speeds ± {100 * sd:g}%", ratio=ratio, seeds=seeds, speed_sd=sd)
        for ratio in (1.2, 1.8, 2.5, 4.0)
        for seeds, sd in ((2, 0.003), (3, 0.02), (4, 0.05))
    ),
    Regime(name="no trade-off", ratio=2.5, seeds=3, speed_sd=0.02, tradeoff=False),
)


@dataclass(frozen=True)
class Curves:
    """L(n) = floor + (end − floor) (n ÷ TOKENS)^−exponent, of each config."""

    floor: np.ndarray
    end: np.ndarray
    exponent: np.ndarray

    def at(self, tokens: np.ndarray) -> np.ndarray:
        """True losses at each config's `tokens`, in nats."""
        return self.floor + (self.end - self.floor) * (tokens / TOKENS) ** -self.exponent


def truth(regime: Regime, source: np.random.Generator) -> tuple[Curves, np.ndarray]:
    """Curves and true log speeds of one study. With a trade-off slower configs have the lower losses, on the whole."""
    speeds = np.concatenate([[0.0, 1.0], source.uniform(size=CONFIGS - 2)]) * math.log(regime.ratio)
    spread = source.uniform(2.5, 6) * TRIAL_SD
    rank = (speeds / math.log(regime.ratio) if regime.tradeoff else source.uniform(size=CONFIGS)) + source.normal(
        scale=0.25, size=CONFIGS
    )
    rank = (rank - rank.min()) / np.ptp(rank)
    curves = Curves(
        floor=np.full(CONFIGS, source.uniform(1.5, 3.0)),
        end=source.uniform(4.0, 5.0) + spread * rank,
        exponent=source.uniform(0.2, 0.4) + source.normal(scale=0.01, size=CONFIGS),
    )
    return curves, math.log(100_000) + speeds


def study(regime: Regime, source: np.random.Generator) -> tuple[Curves, np.ndarray, EqualTime]:
    """One study's truth, and what is said of it."""
    curves, log_speeds = truth(regime, source)
    lengths = np.array([0.25, 0.5, 1.0] if regime.ratio > 1.8 else [0.5, 1.0]) * TOKENS
    effects = source.normal(scale=TRIAL_SD, size=(regime.seeds, len(lengths)))
    trials, speeds = [], []
    for config in range(CONFIGS):
        true = np.array([curves.at(np.full(CONFIGS, n))[config] for n in lengths])
        for seed in range(regime.seeds):
            common = source.normal(scale=TRIAL_SD * math.sqrt(SHARED))
            own = source.normal(scale=TRIAL_SD * math.sqrt(1 - SHARED), size=len(lengths))
            values = true + effects[seed] + common + own
            losses = dict(zip(lengths.astype(int).tolist(), values.tolist(), strict=True))
            trials.append(CooledTrial(config_id=str(config), seed=seed, losses=losses))
            value = log_speeds[config] + source.normal(scale=regime.speed_sd)
            speeds.append(Observation(treatment=str(config), block=f"seed {seed}", value=value))
    found = equal_time(trials, fit(speeds), {str(config): str(config) for config in range(CONFIGS)})
    assert found is not None
    return curves, log_speeds, found


def counted(regime: Regime, studies: int, seed: int) -> dict[str, float]:
    """Shares over all studies of a regime."""
    n: Counter[str] = Counter()
    for number in range(studies):
        source = np.random.default_rng([seed, number])
        curves, log_speeds, found = study(regime, source)
        reached = TOKENS * np.exp(log_speeds - log_speeds.max())
        true = curves.at(reached)
        best = str(int(np.argmin(true)))
        lowest = int(found.losses[0].config_id)
        for one in found.losses:
            config = int(one.config_id)
            n["told"] += not one.bound
            n["bounds"] += one.bound
            n["wrong bounds"] += one.bound and true[config] < curves.at(np.full(CONFIGS, 0.25 * TOKENS))[config] - 1e-3
            if one.difference is not None and one.difference.low is not None and not one.bound:
                n["differences"] += 1
                n["held"] += one.difference.low <= true[config] - true[lowest] <= one.difference.high
            if one.verdict == "ruled out":
                n["ruled out"] += 1
                n["wrongly"] += true[config] <= true[lowest]
                n["best ruled out"] += one.config_id == best
        n["lowest is best"] += found.losses[0].config_id == best
    return {
        "intervals of differences hold": n["held"] / n["differences"],
        "ruled out, of all": n["ruled out"] / (studies * CONFIGS),
        "ruled out wrongly, of these": n["wrongly"] / max(1, n["ruled out"]),
        "studies whose best is ruled out": n["best ruled out"] / studies,
        "lowest is the best": n["lowest is best"] / studies,
        "bounds, of all": n["bounds"] / (n["told"] + n["bounds"]),
        "bounds above the truth": float(n["wrong bounds"]),
    }


def main() -> int:
    """Run all regimes; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--out", type=Path, default=RESULTS / "equal_time.json")
    given = parser.parse_args()
    found = {regime.name: counted(regime, given.studies, given.seed) for regime in REGIMES}
    met = {
        name: COVERAGE[0] <= one["intervals of differences hold"] <= COVERAGE[1]
        and one["studies whose best is ruled out"] <= MOST_BEST_RULED_OUT
        and one["bounds above the truth"] == 0
        for name, one in found.items()
    }
    for name, one in found.items():
        print(f"{'met ' if met[name] else 'NOT '} {name}: " + ", ".join(f"{k} {v:.3f}" for k, v in one.items()))
    record = {
        "provenance": provenance("numpy", "scipy"),
        "studies": given.studies,
        "regimes": [asdict(regime) for regime in REGIMES],
        "found": found,
        "met": {name: bool(one) for name, one in met.items()},
    }
    given.out.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
