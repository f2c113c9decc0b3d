"""Optuna's GP sampler, choosing among given candidates instead of anywhere in the box. Imports Optuna."""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.samplers import GPSampler

AT_ONCE = 512
"""Candidates whose acquisition is worked out together."""


class CandidatesGPSampler(GPSampler):
    """Takes the best of `candidates` (n, sides), normalised as Optuna does: 0 to 1 for numbers, the place of a word.

    What the box holds beside them doesn't exist. Where an axis follows from the others the configs lie on a thin sheet,
    and the best place of the box is far from it.
    """

    candidates: np.ndarray

    def _optimize_acqf(self, acqf: Any, best_params: np.ndarray | None) -> np.ndarray:
        """Optuna names this method for overriding, and promises nothing between versions: 5.0.0 is pinned."""
        chunks = range(0, len(self.candidates), AT_ONCE)
        values = [acqf.eval_acqf_no_grad(self.candidates[start : start + AT_ONCE]) for start in chunks]
        best: np.ndarray = self.candidates[int(np.concatenate(values).argmax())]
        return best
