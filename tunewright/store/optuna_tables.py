"""Optuna's tables for trials, which are no public interface: the one module that reads or writes them by itself.

Optuna's own methods take a transaction and several queries for each field, 5 ms a trial; writing a trial's start and
its end as one transaction each takes 1 ms, and no trial can be half written. ``tests/test_optuna_tables.py`` fails
where a version of Optuna has other tables, or finds something else in them than its own methods would have written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from tunewright.space import Space, Value
from tunewright.store.distributions import distribution

TRIALS, USER, SYSTEM, PARAMS, VALUES = (
    "trials", "trial_user_attributes", "trial_system_attributes", "trial_params", "trial_values",
)  # fmt: skip
OBJECTIVES = "study:metric_names"  # key of a study's system attributes under which Optuna's plots find names
_CONSTRAINT = "constraints:"  # prefix of the keys of a trial's system attributes under which they find constraints


class TrialTables:
    """The tables of an open storage; thread-safe, as its engine is.

    Args:
        storage: an ``optuna.storages.RDBStorage``.
    """

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    @property
    def engine(self) -> Any:
        """The SQLAlchemy engine."""
        return self._storage.engine

    def close(self) -> None:
        """Give all connections back."""
        self._storage.remove_session()
        self.engine.dispose()

    @cached_property
    def _tables(self) -> Mapping[str, Any]:
        import sqlalchemy

        metadata = sqlalchemy.MetaData()
        metadata.reflect(self.engine, only=(TRIALS, USER, SYSTEM, PARAMS, VALUES))
        return metadata.tables

    def start(
        self,
        study: int,
        number: int | None,
        started: datetime,
        attributes: Mapping[str, Any],
        config: Mapping[str, Value],
        space: Space,
    ) -> tuple[int, int]:
        """Add a running trial.

        Args:
            study: id of its study.
            number: its number; None for the next one.
            started: local time.
            attributes: user attributes, JSON-able.
            config: its parameters.
            space: says what their distributions are.

        Returns:
            Its number and id.
        """
        import sqlalchemy

        trials = self._tables[TRIALS]
        with self.engine.begin() as connection:
            if number is None:
                query = sqlalchemy.select(sqlalchemy.func.max(trials.c.number))
                last = connection.execute(query.where(trials.c.study_id == study)).scalar()
                number = 0 if last is None else int(last) + 1
            row = {"number": number, "study_id": study, "state": "RUNNING", "datetime_start": _utc(started)}
            trial_id = int(connection.execute(trials.insert(), row).inserted_primary_key[0])
            self._add_attributes(connection, USER, trial_id, attributes)
            params = [{"trial_id": trial_id, **row} for row in _param_rows(config, space)]
            if params:
                connection.execute(self._tables[PARAMS].insert(), params)
        return number, trial_id

    def trial_id(self, study: int, number: int) -> int:
        """Return the id of a trial."""
        return int(self._storage.get_trial_id_from_study_id_trial_number(study, number))

    def finish(
        self,
        trial_id: int,
        ended: datetime,
        attributes: Mapping[str, Any],
        violations: Mapping[str, float],
        values: Sequence[float] | None,
    ) -> bool:
        """End a running trial.

        Args:
            trial_id: its id.
            ended: local time.
            attributes: user attributes, JSON-able.
            violations: constraint to the amount by which it is missed.
            values: of the objectives; None where it failed.

        Returns:
            False, with nothing written, where it is not running.
        """
        trials = self._tables[TRIALS]
        change = trials.update().where(trials.c.trial_id == trial_id, trials.c.state == "RUNNING")
        row = {"state": "FAIL" if values is None else "COMPLETE", "datetime_complete": _utc(ended)}
        with self.engine.begin() as connection:
            if connection.execute(change, row).rowcount != 1:
                return False
            self._add_attributes(connection, USER, trial_id, attributes)
            bounds = {f"{_CONSTRAINT}{name}": amount for name, amount in violations.items()}
            self._add_attributes(connection, SYSTEM, trial_id, bounds)
            if values is not None:
                rows = [_value_row(trial_id, i, value) for i, value in enumerate(values)]
                connection.execute(self._tables[VALUES].insert(), rows)
        return True

    def _add_attributes(self, connection: Any, table: str, trial_id: int, attributes: Mapping[str, Any]) -> None:
        rows = [{"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in attributes.items()]
        if rows:
            connection.execute(self._tables[table].insert(), rows)


def _utc(local: datetime) -> datetime:
    """Return local time as the tables have it: in UTC, and without saying so."""
    return local.astimezone(UTC).replace(tzinfo=None)


def _param_rows(config: Mapping[str, Value], space: Space) -> list[dict[str, Any]]:
    from optuna.distributions import distribution_to_json

    rows, scope = [], space.scope(config)
    for name, value in config.items():
        # a rejected value outside its range lives in the attribute alone
        if name in space.params and space.params[name].problem(value, scope) is None:
            drawn = distribution(space.params[name], space, value)
            row = {"param_name": name, "param_value": drawn.to_internal_repr(value)}
            rows.append({**row, "distribution_json": distribution_to_json(drawn)})
    return rows


def _value_row(trial_id: int, objective: int, value: float) -> dict[str, Any]:
    """Return an objective's value in Optuna's form, which keeps infinities apart."""
    kind = "FINITE" if math.isfinite(value) else "INF_POS" if value > 0 else "INF_NEG"
    stored = value if kind == "FINITE" else None
    return {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind}
