"""The sum of variances that are each estimated: its degrees of freedom by Welch and Satterthwaite.

With s² = Σ sᵢ², each of νᵢ degrees of freedom,  ν = s⁴ ÷ Σ sᵢ⁴ ÷ νᵢ  (Satterthwaite, Biometrics Bulletin 2, 1946; for a
difference of two means it's Welch's, Biometrika 34, 1947).
"""

from __future__ import annotations

from collections.abc import Sequence


def summed(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The sum of `variances`, each with its degrees of freedom, and its own; of none but zeros their most."""
    whole = sum(variance for variance, _ in variances)
    terms = sum(variance**2 / df for variance, df in variances if variance)
    return whole, whole**2 / terms if terms else max(df for _, df in variances)
