"""What no test can do better on the tables of `regimes.py`: why some figures aren't reached.

- A trial that is 8 sd off: the most powerful invariant test of one known place is Student's t of its studentised
  residual; of N places each at level ÷ N. Its power is that of noncentral t.
- One config of many that is 4 times noisier: the most powerful test of a known place against noise that is known
  without error rejects at χ²(n − 1) above a quantile (Neyman and Pearson); each of k places at level ÷ k.
- A best among six at 3 seeds: of all rules that know the mean difference of the lowest two, its own variance and the
  noise of the quiet configs without error, the one with the most power at a lead of 3 sd that names a best in at most
  5.5% where two are tied, alike or one 4 times noisier: by Neyman and Pearson's ratio of the densities, on a grid.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import regimes
from numpy.typing import NDArray
from scipy import stats

DRAWN = 400_000


@cache
def outlier_power(configs: int, seeds: int, *, off: float, level: float) -> float:
    """The chance that a trial `off` by so many sd is named, at `level` for all trials together."""
    n, df = configs * seeds, (configs - 1) * (seeds - 1) - 1
    left = 1 - (configs + seeds - 1) / n
    critical = stats.t.isf(level / 2 / n, df)
    return float(stats.nct.sf(critical, df, off * np.sqrt(left)))


def noisy_power(configs: int, seeds: int, *, ratio: float, level: float) -> float:
    """The chance that a config whose sd is `ratio` times that of the others, which is known, is named."""
    return float(stats.chi2.sf(stats.chi2.isf(level / configs, seeds - 1) / ratio**2, seeds - 1))


def _lowest_two(source: np.random.Generator, truth: NDArray[np.float64], sd: NDArray[np.float64]) -> Any:
    tables = truth[:, None] + source.normal(size=(DRAWN, len(sd), 3)) * sd[:, None]
    order = np.argsort(tables.mean(axis=2), axis=1)
    rows = np.arange(DRAWN)
    gaps = tables[rows, order[:, 1]] - tables[rows, order[:, 0]]
    return order[:, 0] == 0, gaps.mean(axis=1), gaps.var(axis=1, ddof=1)


def best_power(source: np.random.Generator, *, falsely: float) -> float:
    """The most power at a lead of 3 sd among six at 3 seeds, where neither tie names a best in more than `falsely`."""
    lead, tied, quiet, noisy = np.zeros(6), np.full(6, 80.0), np.ones(6), np.ones(6)
    lead[0], tied[:2], noisy[0] = -regimes.LEAD, 0.0, regimes.NOISIER
    edges = np.linspace(0, 8, 81), np.r_[np.linspace(0, 12, 121), 40, 200]
    cells = []
    for truth, sd, of in ((tied, quiet, None), (tied, noisy, None), (lead, quiet, True)):
        right, gap, variance = _lowest_two(source, truth, sd)
        weights = right.astype(float) if of else None
        at = np.clip(gap, 0, 7.999), np.clip(variance, 0, 199.9)
        cells.append(np.histogram2d(*at, bins=edges, weights=weights)[0] / DRAWN)
    most = 0.0
    for alike in np.linspace(0, 6, 31):
        for unlike in np.linspace(0, 12, 61):
            inside = cells[2] > alike * cells[0] + unlike * cells[1]
            if cells[0][inside].sum() <= falsely and cells[1][inside].sum() <= falsely:
                most = max(most, float(cells[2][inside].sum()))
    return most


def all_bounds(source: np.random.Generator) -> dict[str, Any]:
    """Those that `decisions.json` holds beside the figures."""
    return {
        "an outlier of 8 sd is named, 6 × 3, at 1.8%": outlier_power(6, 3, off=regimes.OUTLIER, level=0.018),
        "an outlier of 8 sd is named, 12 × 2, at 1.8%": outlier_power(12, 2, off=regimes.OUTLIER, level=0.018),
        "one of 8 configs, 4 times noisier, is named at 5%": {
            f"{seeds} seeds": noisy_power(8, seeds, ratio=regimes.NOISIER, level=0.05) for seeds in (2, 3, 5)
        },
        "a lead of 3 sd is named, a best falsely in 5.5%, also where one of two tied is 4 times noisier":
            best_power(source, falsely=0.055),
    }  # fmt: skip
