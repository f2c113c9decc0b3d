"""What it costs to choose one treatment where another may be the best.

Of the chosen c the cost is μ_c − min μ. With simultaneous intervals [L_j, U_j] of μ_c − μ_j for all j, by Tukey and
Kramer, it lies in [max(0, max L_j), max(0, max U_j)] with at least their confidence, however c was picked (Hsu, Annals
of Statistics 9, 1981, has the bounds for intervals of comparisons with the best).
"""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.stats.additive_fit import AdditiveFit


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How much higher than the lowest mean that of `chosen` is, with its 95% interval; None without a noise estimate.

    `best` has the lowest mean, by what was measured.
    """

    chosen: str
    best: str
    value: float
    low: float | None
    high: float | None


def cost_of_choosing(chosen: str, fitted: AdditiveFit) -> Cost:
    """Of a treatment that was chosen elsewhere, in the unit of the fit's values; the lower these the better."""
    means = {treatment: fitted.mean(treatment).value for treatment in fitted.treatments}
    best = min(means, key=lambda treatment: (means[treatment], treatment != chosen))
    others = [treatment for treatment in fitted.treatments if treatment != chosen]
    gaps = [fitted.simultaneous_difference(chosen, other) for other in others]
    lows, highs = ([end for end in ends if end is not None] for ends in ([g.low for g in gaps], [g.high for g in gaps]))
    return Cost(
        chosen=chosen,
        best=best,
        value=means[chosen] - means[best],
        low=max(0.0, *lows) if lows else None,
        high=max(0.0, *highs) if highs else None,
    )
