"""The study as Optuna keeps studies, in a storage of the user's, for optuna-dashboard to show: written, never read.

Like MLflow's it is a projection of the ledger: what is there isn't written again, and nothing here stops a study.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sweeper.ledger.typed import FinalLine, Line
from sweeper.planning.axes import value_on
from sweeper.planning.objectives import of_line
from sweeper.values.records import Config

if TYPE_CHECKING:
    import optuna


class Mirror:
    """One Optuna trial for each training with an outcome, by its params, which are the values of the study's `axes`.

    `where` is a database URL (sqlite:///study.db), else the path of a journal file. `warning` says what went wrong,
    after which nothing more is written: the next run of the study catches up.
    """

    def __init__(
        self,
        where: str,
        *,
        name: str,
        objectives: Mapping[str, str],
        axes: Sequence[str],
        configs: Sequence[Config],
    ) -> None:
        self._where, self._name, self._objectives = where, name, dict(objectives)
        self._values = {axis: [value_on(axis, config) for config in configs] for axis in axes}
        self._study: optuna.Study | None = None
        self._known: set[str] = set()
        self.warning: str | None = None

    def catch_up(self, records: Iterable[Line]) -> None:
        """Write what earlier runs have measured and isn't there."""
        for record in records:
            self.observe(record)

    def observe(self, record: Line) -> None:
        """Take in one ledger record."""
        if not isinstance(record, FinalLine) or self.warning is not None:
            return
        try:
            self._write(record)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.warning = f"search.storage {self._where}: {lines[0]}; the study goes on without it"

    def _write(self, record: FinalLine) -> None:
        from optuna.trial import FrozenTrial, TrialState

        study = self._study = self._study or self._opened()
        if record.trial_id in self._known:
            return
        config = record.config
        distributions = {axis: made for axis, values in self._values.items() if (made := _distribution(values))}
        values = [of_line(name, record) for name in self._objectives]
        known = [value for value in values if value is not None]
        is_whole = record.status == "ok" and len(known) == len(values)
        ended = datetime.fromisoformat(record.time).astimezone().replace(tzinfo=None)
        study.add_trial(
            FrozenTrial(
                number=-1,  # the storage counts
                trial_id=-1,
                state=TrialState.COMPLETE if is_whole else TrialState.FAIL,
                value=None,
                values=known if is_whole else None,
                datetime_start=datetime.fromtimestamp(ended.timestamp() - sum(record.seconds.values())),
                datetime_complete=ended,
                params={axis: value_on(axis, config) for axis in distributions},
                distributions=distributions,
                user_attrs={
                    "trial_id": record.trial_id,
                    "status": record.status,
                    "seed": record.seed,
                    "params": config.shape.params.total,
                },
                system_attrs={},
                intermediate_values={},
            )
        )
        self._known.add(record.trial_id)

    def _opened(self) -> optuna.Study:
        import optuna
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna.study import StudyDirection

        from sweeper.search._on_lattice import quiet

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        is_database = "://" in self._where
        storage = RDBStorage(self._where) if is_database else JournalStorage(JournalFileBackend(self._where))
        directions = [
            StudyDirection.MINIMIZE if towards == "min" else StudyDirection.MAXIMIZE
            for towards in self._objectives.values()
        ]
        with quiet():
            study = optuna.create_study(
                storage=storage, study_name=self._name, directions=directions, load_if_exists=True
            )
            study.set_metric_names(list(self._objectives))
        self._known = {str(trial.user_attrs.get("trial_id")) for trial in study.get_trials(deepcopy=False)}
        return study


def _distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution | None:
    """Of an axis; None where all configs have the same value."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    unlike = set(values)
    if len(unlike) < 2:
        return None
    if all(isinstance(value, int) and not isinstance(value, bool) for value in unlike):
        return IntDistribution(min(unlike), max(unlike))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in unlike):
        return FloatDistribution(min(unlike), max(unlike), log=min(unlike) > 0)
    return CategoricalDistribution(sorted(unlike, key=str))
