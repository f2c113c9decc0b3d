"""Regimes of synthetic studies, written down with their seeds before the methods that are held to them.

Real studies' true losses spread (highest less lowest) over 2.5 to 6 times a trial's scatter: the regimes are such
studies, but for the wide one, which is `synthetic.drawn`. A close study has 6 to 12 configs, whose log speeds are
uniform over 0.4 to 1.5, and 2 to 4 seeds; its losses lie

- trade_off: along a power of the log speed's rank in its range, a faster config worse, with some scatter of its own;
- plateau: level but for the faster half or so, which gets worse in proportion;
- own_scatter: anywhere, whatever the speed.

The other regimes take one of these three at random, and

- t3: noise is Student's t with 3 degrees of freedom, of the same standard deviation;
- by_covariate: configs at the highest of three learning rates, or the deepest third, are 4 times noisier;
- by_none: a quarter of configs, drawn at random, are 4 times noisier;
- divergence: a config gains in loss the nearer it is to an edge, at which trials diverge; what a seed adds to a loss is
  correlated with whether it diverges. One that diverges for 10% of seeds or more is truly on no frontier;
- outlier: 18 trials or more, one of which reads 8 standard deviations too high.

Study i of a regime is drawn with seed [SEED, the regime's place, i].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy.special import ndtr
from synthetic import Study, drawn, shapes

SEED = 2026_12
NOISIER = 4.0
OUTLIER = 8.0
LEAST_TRIALS = 18
SURFACES = ("trade_off", "plateau", "own_scatter")
"""The close regimes."""
RATES = (1e-3, 3e-3, 1e-2)


def studies(regime: str, count: int, *, first: int = 0) -> Iterator[Study]:
    """So many studies of it from the `first` on, the same every time."""
    place = list(REGIMES).index(regime)
    for i in range(first, first + count):
        yield REGIMES[regime](np.random.default_rng([SEED, place, i]))


def close(source: np.random.Generator, kind: str | None = None, *, least_trials: int = 0) -> Study:
    """A close study with a surface of this kind, one at random without, and at least so many trials."""
    kind = kind or str(source.choice(SURFACES))
    seeds = int(source.integers(2, 5))
    n = max(int(source.integers(6, 13)), -(-least_trials // seeds))
    log_speed = 10 + source.uniform(0, source.uniform(0.4, 1.5), size=n)
    sd, speed_sd = math.exp(source.uniform(math.log(0.003), math.log(0.03))), source.uniform(0.002, 0.03)
    loss = 2.5 + spread_over(surface(source, kind, log_speed), sd * source.uniform(2.5, 6))
    shared = source.normal(0, sd * source.uniform(0.5, 2), size=seeds)
    rounds = np.cumsum(source.normal(0, source.uniform(0, 0.03), size=seeds))
    return Study(
        points=shapes(source, n, rates=source.choice(RATES, size=n).tolist()),
        loss=loss,
        log_speed=log_speed,
        loss_noise=shared + source.normal(0, sd, size=(n, seeds)),
        speed_noise=rounds + source.normal(0, speed_sd, size=(n, seeds)),
        missing=np.zeros((n, seeds), dtype=bool),
        seed_effect=float(shared.mean()),
        round_effect=float(rounds.mean()),
        sd=np.full(n, sd),
        diverged=np.zeros((n, seeds), dtype=bool),
        divergence=np.zeros(n),
    )


def surface(source: np.random.Generator, kind: str, log_speed: np.ndarray) -> np.ndarray:
    """Losses, in no unit."""
    place = (log_speed - log_speed.min()) / np.ptp(log_speed)
    own = source.standard_normal(len(place))
    if kind == "own_scatter":
        return own
    if kind == "plateau":
        edge = source.uniform(0.3, 0.7)
        return np.clip(place - edge, 0, None) / (1 - edge) + 0.05 * own
    return place ** source.uniform(0.7, 2) + source.uniform(0.02, 0.2) * own


def spread_over(values: np.ndarray, width: float) -> np.ndarray:
    """The values with a mean of 0, stretched so that the highest is so far above the lowest."""
    return (values - values.mean()) * (width / np.ptp(values))


def noisier(study: Study, noisy: np.ndarray) -> Study:
    """The study with the scatter of these configs' trials 4 times as large; what seeds share is as it was."""
    own = study.loss_noise - study.loss_noise.mean(axis=0)
    ratio = np.where(noisy, NOISIER, 1.0)
    return replace(study, loss_noise=study.loss_noise + (ratio - 1)[:, None] * own, sd=study.sd * ratio)


def heavy_tailed(source: np.random.Generator) -> Study:
    """Student's t with 3 degrees of freedom, whose variance is 3."""
    study = close(source)
    noise = source.standard_t(3, size=study.loss_noise.shape) / math.sqrt(3)
    return replace(study, loss_noise=study.seed_effect + study.sd[:, None] * noise)


def by_covariate(source: np.random.Generator) -> Study:
    """Noisier where the learning rate is the highest, or the depth is."""
    study = close(source)
    n = len(study.points)
    if source.random() < 0.5:
        rates = np.resize(RATES, n)
        study = replace(study, points=shapes(source, n, rates=rates.tolist()))
        return noisier(study, rates == max(RATES))
    depths = np.array([point.config.shape.n_layers for point in study.points])
    return noisier(study, depths >= np.quantile(depths, 2 / 3))


def by_none(source: np.random.Generator) -> Study:
    """Noisier for no reason that is recorded."""
    study = close(source)
    n = len(study.points)
    noisy = np.zeros(n, dtype=bool)
    noisy[source.choice(n, size=max(1, n // 4), replace=False)] = True
    return noisier(study, noisy)


def divergence(source: np.random.Generator) -> Study:
    """The nearer to the edge, the better, and the more of its seeds diverge."""
    study = close(source)
    n, seeds = study.loss_noise.shape
    near, edge = source.uniform(0, 1, size=n), source.uniform(0.6, 1.1)
    gain = source.uniform(1, 3) * study.sd * near
    threshold = (edge - near) / 0.08
    own = (study.loss_noise - study.loss_noise.mean(axis=0)) / study.sd[:, None]
    luck = -0.5 * own + math.sqrt(1 - 0.5**2) * source.standard_normal((n, seeds))
    diverged = luck > threshold[:, None]
    return replace(study, loss=study.loss - gain, diverged=diverged, divergence=1 - ndtr(threshold))


def outlier(source: np.random.Generator) -> Study:
    """One trial, of any config, 8 standard deviations too high."""
    study = close(source, least_trials=LEAST_TRIALS)
    cell = tuple(int(source.integers(size)) for size in study.loss_noise.shape)
    noise = study.loss_noise.copy()
    noise[cell] += OUTLIER * study.sd[cell[0]]
    return replace(study, loss_noise=noise, outlier=(cell[0], cell[1]))


REGIMES: dict[str, Callable[[np.random.Generator], Study]] = {
    "trade_off": lambda source: close(source, "trade_off"),
    "plateau": lambda source: close(source, "plateau"),
    "own_scatter": lambda source: close(source, "own_scatter"),
    "wide": drawn,
    "t3": heavy_tailed,
    "by_covariate": by_covariate,
    "by_none": by_none,
    "divergence": divergence,
    "outlier": outlier,
}
