"""Draws of true means that lie about a trend, each measured with a variance of its own: a hierarchical normal model.

Of k means mᵢ, each of nᵢ values with residual sum of squares Sᵢ on νᵢ degrees of freedom, and xᵢ the log speed:

    mᵢ = θᵢ + (L z)ᵢ + oᵢ σᵢ εᵢ           oᵢ = 1/√nᵢ; L the loadings of what all share, z ~ N(0, σ²), ε ~ N(0, 1)
    θᵢ = β₀ + β₁ p₁(xᵢ) + β₂ p₂(xᵢ) + uᵢ   u ~ N(0, τ²); p₁, p₂ orthogonal polynomials with a mean square of one
    v/(v + τ²) ~ uniform(0, 1)             v the median of oᵢ²σᵢ²
    β₀ flat; βⱼ ~ N(0, gⱼ (v + τ²))        gⱼ as in `TRENDS`: level, linear or quadratic, averaged over
    σᵢ² ~ σ² × d ÷ χ²(d)                   p(log σ) flat; d as in `SPREADS`, the last of which is one variance for all

The uniform prior on the shrinkage is that of Strawderman (Annals of Mathematical Statistics 42, 1971); it has a proper
posterior, and unlike a point estimate of τ it doesn't call all means equal where they may be. The variances are those
of Smyth (Statistical Applications in Genetics and Molecular Biology 3, 2004), with d integrated. Given the variances, τ
and g, all is normal and integrated in closed form: means about W c, W = [1, p₁, p₂, L], have the covariance
V = diag(oᵢ²σᵢ² + τ²), so that with P the prior precision of the coefficients

    A = WᵀV⁻¹W + P,   c | m ~ N(A⁻¹WᵀV⁻¹m, A⁻¹),   log p(m) = −½ (log|V| + log|A| − log|P| + mᵀV⁻¹m − mᵀV⁻¹W A⁻¹ WᵀV⁻¹m)

and θ is the trend plus what τ²/(oᵢ²σᵢ² + τ²) leaves of the rest. Variances are drawn from the residuals' posterior and
weighted by p(m); τ and g lie on a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_MEANS = 4
"""Of fewer nothing is learnt of a trend or of what scatters about it."""
_EDGES = np.array([0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, *np.linspace(0.1, 1, 10)])
SHRINKAGES, LIKELY = (_EDGES[1:] + _EDGES[:-1]) / 2, np.diff(_EDGES)
"""Middles and widths of intervals of v/(v + τ²), finer where τ is large: means far apart are left as they are."""
LEVEL, STEEP = 0.03, 10.0
TRENDS = ((LEVEL, LEVEL, 0.1), (STEEP, 0.1, 0.45), (STEEP, STEEP, 0.45))
"""Of each kind of trend g of its slope and of its curvature, and how likely it is beforehand."""
SPREADS = ((2.0, 0.125), (4.0, 0.125), (8.0, 0.125), (16.0, 0.125), (1e6, 0.5))
"""Of each d, how likely it is beforehand."""
VARIANCES = 1000
"""So many sets of variances are drawn, from which draws of means take theirs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Means:
    """What was measured of k means: `means` [k], `own` [k], `loadings` [k, shared], as in the model above.

    `squares` and `degrees` [k] are the residuals' sums of squares, in units in which all may have one variance, and
    their degrees of freedom, which add up to those of the fit.
    """

    means: Array
    own: Array
    loadings: Array
    squares: Array
    degrees: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grid:
    """The coefficients' posterior at each set of variances, trend and shrinkage: precisions A, means and log p(m)."""

    precisions: Array
    means: Array
    log_p: Array


def drawn_about_trend(of: Means, x: Array, source: np.random.Generator, *, draws: int) -> Array:
    """(draws, k): what the true means at `x` [k] may be. There are `LEAST_MEANS` and residuals above zero."""
    centre = of.means.mean()
    means, trend = of.means - centre, _polynomials(x)
    w = np.concatenate([trend, of.loadings[:, np.abs(of.loadings).max(axis=0, initial=0.0) > 1e-9]], axis=1)
    variances = drawn_variances(of.squares, of.degrees, source, draws=min(draws, VARIANCES))
    noise = of.own**2 * variances
    tau2 = np.median(noise, axis=1)[:, None] * (1 / SHRINKAGES - 1)
    grid = _coefficients(means, w, trend.shape[1], noise, tau2, np.median(variances, axis=1))
    weights = np.exp(grid.log_p - grid.log_p.max())
    chosen = source.choice(weights.size, size=draws, p=weights.ravel() / weights.sum())
    of_set, of_grid = np.divmod(chosen, weights.shape[1])
    tau2, noise = tau2[of_set, of_grid % len(SHRINKAGES)][:, None], noise[of_set]
    roots = np.linalg.cholesky(np.linalg.inv(grid.precisions[of_set, of_grid]))
    spread = source.standard_normal((draws, w.shape[1], 1))
    coefficients = grid.means[of_set, of_grid] + (roots @ spread)[..., 0]
    left = tau2 / (noise + tau2)
    own = left * (means - coefficients @ w.T) + np.sqrt(left * noise) * source.standard_normal((draws, len(means)))
    found: Array = centre + coefficients[:, : trend.shape[1]] @ trend.T + own
    return found


def _polynomials(x: Array) -> Array:
    """[k, 3]: 1, and polynomials of first and second degree, orthogonal to each other, with a mean square of one.

    A column that the others explain (where speeds are all the same, or only two differ) is left out.
    """
    spread = x.std()
    z = (x - x.mean()) / spread if spread > 1e-9 else np.zeros(len(x))
    columns = [np.ones(len(x))]
    for power in (z, z**2):
        rest = power - sum(column * (column @ power) / len(x) for column in columns)
        if (size := math.sqrt(rest @ rest / len(x))) > 1e-6:
            columns.append(rest / size)
    return np.stack(columns, axis=1)


def _coefficients(means: Array, w: Array, degrees: int, noise: Array, tau2: Array, shared: Array) -> _Grid:
    """`degrees` of the columns of `w` are the trend's; `shared` [sets] is the variance of what all means share."""
    v = noise[:, None, :] + tau2[:, :, None]
    of_trend = np.einsum("ki,sbk,kj->sbij", w, 1 / v, w, optimize=True)
    for column in range(degrees, w.shape[1]):
        of_trend[:, :, column, column] += 1 / shared[:, None]
    wm = np.einsum("ki,sbk->sbi", w, means / v, optimize=True)
    level = -0.5 * (np.log(v).sum(axis=2) + (means**2 / v).sum(axis=2))
    level += np.log(LIKELY) - 0.5 * (w.shape[1] - degrees) * np.log(shared)[:, None]
    total = np.median(noise, axis=1)[:, None] + tau2
    parts = []
    for *sizes, likely in TRENDS:
        a, log_p = of_trend.copy(), level + math.log(likely)
        for column, size in zip(range(1, degrees), sizes, strict=False):
            a[:, :, column, column] += 1 / (size * total)
            log_p = log_p - 0.5 * np.log(size * total)
        at = np.linalg.solve(a, wm[..., None])[..., 0]
        parts.append((a, at, log_p - 0.5 * np.linalg.slogdet(a)[1] + 0.5 * (at * wm).sum(axis=2)))
    precisions, at, log_p = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return _Grid(precisions=precisions, means=at, log_p=log_p)


def drawn_variances(squares: Array, degrees: Array, source: np.random.Generator, *, draws: int) -> Array:
    """(draws, k): variances that may have given these residual sums of squares, by Smyth's model with d integrated.

    Of s = log σ² on a grid, p(Sᵢ) ∝ Γ((d+νᵢ)/2) ÷ Γ(d/2) × (dσ²)^(d/2) ÷ (dσ² + Sᵢ)^((d+νᵢ)/2).
    """
    from scipy.special import gammaln

    d, likely = np.array(SPREADS).T
    centre = math.log(max(float(squares.sum()), 1e-300) / float(degrees.sum()))
    scale = np.exp(centre + np.linspace(-3.0, 3.0, 61))
    half, df = d[:, None, None] / 2, degrees / 2
    of_grid = gammaln(half + df) - gammaln(half) - df * np.log(half * scale[:, None])
    of_grid = (of_grid - (half + df) * np.log1p(squares / (2 * half * scale[:, None]))).sum(axis=2)
    of_grid += np.log(likely)[:, None]
    weights = np.exp(of_grid - of_grid.max())
    chosen = source.choice(weights.size, size=draws, p=weights.ravel() / weights.sum())
    d, scale = d[chosen // len(scale), None], scale[chosen % len(scale), None]
    found: Array = (d * scale + squares) / source.chisquare(d + degrees)
    return found
