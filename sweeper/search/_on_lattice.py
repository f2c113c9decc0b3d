"""An Optuna study whose trials are configs of a lattice, whatever its sampler asks for. Imports Optuna."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search._gp_sampler import CandidatesGPSampler
from sweeper.search.features import AxisColumns

optuna.logging.set_verbosity(optuna.logging.ERROR)


class LatticeStudy:
    """Ask and tell by the places of configs; `box` has their coordinates, a side for each axis.

    Where it has no sides there is nothing to learn, and the sampler isn't asked.
    """

    def __init__(
        self,
        box: Sequence[AxisColumns],
        make_sampler: Callable[[int], BaseSampler],
        *,
        towards: Sequence[str],
        keeps_generations: bool,
    ) -> None:
        self._make_sampler = make_sampler
        self._sampler = _OnLattice(box, keeps_generations=keeps_generations)
        self._sampler.inner = make_sampler(0)
        directions = [StudyDirection.MINIMIZE if one == "min" else StudyDirection.MAXIMIZE for one in towards]
        self._trials: dict[int, optuna.Trial] = {}
        with quiet():
            self._study = optuna.create_study(sampler=self._sampler, directions=directions)

    def take(self, place: int) -> None:
        """Have the config at `place` for a trial, unless it is one since it was asked for."""
        if self._sampler.space and place not in self._trials:
            self._new_trial([place], seed=0, forced=place)

    def ask(self, free: Sequence[int], *, seed: int) -> int | None:
        """Which of the `free` places the sampler wants; None where it has no opinion, as too little was told."""
        if not self._sampler.space:
            return None
        return self._new_trial(free, seed=seed, forced=None)

    def tell(self, place: int, values: Sequence[float] | None) -> None:
        """The objectives of a trial, None where it failed."""
        if (trial := self._trials.get(place)) is None:
            return
        with quiet():
            if values is None:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, list(values))

    def _new_trial(self, free: Sequence[int], *, seed: int, forced: int | None) -> int | None:
        sampler = self._sampler
        sampler.inner, sampler.free, sampler.forced = self._make_sampler(seed), np.asarray(free), forced
        with quiet():
            trial = self._study.ask(sampler.space)
        if sampler.chosen is None:
            with quiet():
                self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._trials[sampler.chosen] = trial
        return sampler.chosen


class _OnLattice(BaseSampler):
    """Asks `inner`, and takes the nearest of the `free` configs instead, or the one that is `forced`."""

    inner: BaseSampler

    def __init__(self, box: Sequence[AxisColumns], *, keeps_generations: bool) -> None:
        self._box, self._keeps_generations = box, keeps_generations
        self._points = np.concatenate([side.columns for side in box], axis=1) if box else np.zeros((0, 0))
        places = [side.columns.argmax(axis=1)[:, None] if side.words else side.columns for side in box]
        self._normalised = np.concatenate(places, axis=1).astype(np.float64) if box else self._points
        self.space: dict[str, BaseDistribution] = {
            side.axis: CategoricalDistribution(range(len(side.words))) if side.words else FloatDistribution(0.0, 1.0)
            for side in box
        }
        self.free = np.zeros(0, dtype=int)
        self.forced: int | None = None
        self.chosen: int | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All sides of the box, always."""
        return self.space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The coordinates of the config that is taken."""
        self.chosen = self.forced
        if self.forced is None or self._keeps_generations:
            if isinstance(self.inner, CandidatesGPSampler):
                self.inner.candidates = self._normalised[self.free]
            wanted = self.inner.sample_relative(study, trial, search_space)
            if self.forced is None and wanted:
                for name in sorted(self.space.keys() - wanted.keys()):  # a mutation of NSGA-II's
                    wanted[name] = self.inner.sample_independent(study, trial, name, self.space[name])
                self.chosen = self._nearest(wanted)
        return {} if self.chosen is None else self._coordinates(self.chosen)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Of a trial that comes to nothing, as the sampler had no opinion."""
        return 0 if isinstance(param_distribution, CategoricalDistribution) else 0.0

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As `inner` does."""
        self.inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As `inner` does."""
        self.inner.after_trial(study, trial, state, values)

    def _coordinates(self, place: int) -> dict[str, Any]:
        return {
            side.axis: int(side.columns[place].argmax()) if side.words else float(side.columns[place, 0])
            for side in self._box
        }

    def _nearest(self, wanted: Mapping[str, Any]) -> int:
        """The free config nearest to where the sampler wants to be; of several the first."""
        parts = []
        for side in self._box:
            at = wanted[side.axis]
            parts.append((np.arange(len(side.words)) == at) * np.sqrt(0.5) if side.words else np.array([at]))
        distances = ((self._points[self.free] - np.concatenate(parts)) ** 2).sum(axis=1)
        return int(self.free[int(distances.round(9).argmin())])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's remarks on what is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
