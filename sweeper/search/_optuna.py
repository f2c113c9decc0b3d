"""What strategies that learn share: one of Optuna's samplers, by ask and tell, on the feasible configs alone.

The sampler searches the box that the study's axes span (`sweeper.search.features`); what it asks for becomes the
nearest feasible config that wasn't proposed yet, and that is what it is told about. A sampler is made anew for every
proposal, seeded by its number: what is proposed depends on the seed, on how many were proposed before, and on the
outcomes that were told, so that a study that was killed goes on as if it hadn't been.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.planning.objectives import of_final, scaled
from sweeper.search.features import axis_columns
from sweeper.search.random import shuffled
from sweeper.search.space_filling import spread
from sweeper.values.events import Final
from sweeper.values.records import Config

if TYPE_CHECKING:
    import optuna

    from sweeper.search._on_lattice import LatticeStudy

STARTS = 10
"""So many configs, far apart, come before the sampler is asked; of fewer than 40 trials a quarter, but at least 3."""

LEAST_TOLD = 3
"""A sampler that models outcomes isn't asked before it knows so many."""


class OptunaStrategy(ABC):
    """Proposes `trials` of `configs`: a few far apart first, then what the sampler asks for, seeded."""

    learns = True
    keeps_generations = False
    """Whether the sampler must see every proposal, as genetic ones count them."""

    def __init__(
        self,
        configs: Sequence[Config],
        *,
        trials: int,
        seed: int,
        axes: Sequence[str],
        objectives: Mapping[str, str],
    ) -> None:
        self._configs = shuffled(configs, seed=seed)
        self._place = {config.config_id: place for place, config in enumerate(self._configs)}
        self.room, self._seed, self._axes = min(trials, len(configs)), seed, tuple(axes)
        self._objectives = dict(objectives)
        self._starts = min(STARTS, max(3, self.room // 4))
        self._order: list[Config] | None = None
        self._proposed: dict[str, Config] = {}
        self._told: set[str] = set()
        self._history: list[tuple[Config, Final | None]] = []
        self._study: LatticeStudy | None = None

    @abstractmethod
    def make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """The sampler for one proposal."""

    @property
    def left(self) -> int:
        """How many configs it will still propose."""
        return max(0, self.room - len(self._proposed))

    def propose(self) -> Config | None:
        """The next config, by what has been told so far; None when all are proposed."""
        if not self.left:
            return None
        config = self._start() if len(self._proposed) < self._starts else self._asked()
        self.adopt(config)
        return config

    def adopt(self, config: Config) -> bool:
        """Take a config for proposed."""
        if config.config_id in self._proposed or config.config_id not in self._place or not self.left:
            return False
        self._proposed[config.config_id] = config
        self._history.append((config, None))
        return True

    def observe(self, final: Final) -> None:
        """Of each config the first outcome that there is; later seeds say little that is new."""
        config = final.job.config
        if config.config_id in self._proposed and config.config_id not in self._told:
            self._told.add(config.config_id)
            self._history.append((config, final))

    def _start(self) -> Config:
        """The next of a well-spread order that wasn't proposed yet."""
        if self._order is None:
            self._order = list(spread(self._configs, trials=self._starts, axes=self._axes))
        left = (config for config in self._order if config.config_id not in self._proposed)
        return next(left, None) or self._any(random.Random(self._seed))

    def _any(self, source: random.Random) -> Config:
        return source.choice([config for config in self._configs if config.config_id not in self._proposed])

    def _asked(self) -> Config:
        study = self._study = self._study or self._begun()
        for config, final in self._history:
            place = self._place[config.config_id]
            if final is None:
                study.take(place)
            else:
                study.tell(place, self._values(final))
        self._history.clear()
        source = random.Random(f"{self._seed} {len(self._proposed)}")
        free = [place for config_id, place in self._place.items() if config_id not in self._proposed]
        wanted = study.ask(free, seed=source.getrandbits(32))
        return self._any(source) if wanted is None else self._configs[wanted]

    def _begun(self) -> LatticeStudy:
        from sweeper.search._on_lattice import LatticeStudy

        return LatticeStudy(
            axis_columns(self._configs, self._axes),
            self.make_sampler,
            towards=list(self._objectives.values()),
            keeps_generations=self.keeps_generations,
        )

    def _values(self, final: Final) -> list[float] | None:
        """What the sampler is told; None for what didn't end well."""
        found = [(name, of_final(name, final)) for name in self._objectives]
        values = [scaled(name, value) for name, value in found if value is not None]
        known = [value for value in values if math.isfinite(value)]
        return known if final.status == "ok" and len(known) == len(found) else None
