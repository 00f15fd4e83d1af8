"""What is used of Optuna beyond its public interface; a version that changes any of it fails here first."""

import math
import time
from datetime import datetime
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tunewright.space import Choice, Int, Real, Space
from tunewright.store import optuna_tables
from tunewright.store.optuna_tables import TrialTables

CORE = Path(__file__).parents[1] / "tunewright"
#: columns of every table that is written, with whether they may be empty
COLUMNS = {
    "trials": {
        "trial_id": False, "number": True, "study_id": True, "state": False, "datetime_start": True,
        "datetime_complete": True,
    },
    "trial_user_attributes": {"trial_user_attribute_id": False, "trial_id": True, "key": True, "value_json": True},
    "trial_system_attributes": {"trial_system_attribute_id": False, "trial_id": True, "key": True, "value_json": True},
    "trial_params": {
        "param_id": False, "trial_id": True, "param_name": True, "param_value": True, "distribution_json": True,
    },
    "trial_values": {
        "trial_value_id": False, "trial_id": False, "objective": False, "value": True, "value_type": False,
    },
}  # fmt: skip
SPACE = Space(
    [
        Real(name="x", low=0.5, high=8.0, default=1.0, log=True),
        Int(name="n", low=0, high=10, default=4, step=2),
        Choice(name="mode", choices=("a", "b"), default="a"),
    ]
)
CONFIG = {"x": 2.0, "n": 6, "mode": "b"}
ATTRIBUTES = {"why": "because", "trial": {"step": 1}}


@pytest.fixture
def storage(tmp_path):
    opened = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.remove_session()
    opened.engine.dispose()


@pytest.fixture
def study(storage):
    sides = [optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE]
    return storage.create_new_study(sides, "s")


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/St_Johns"])
def zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def rows(storage):
    """All rows of the tables, without the ids that count them."""
    with storage.engine.connect() as connection:
        return {
            name: sorted(
                [
                    tuple(
                        v
                        for k, v in row.items()
                        if k in columns and k not in ("trial_id", "number", next(iter(columns)))
                    )
                    for row in connection.execute(sqlalchemy.text(f"SELECT * FROM {name}")).mappings()
                ],
                key=repr,
            )
            for name, columns in COLUMNS.items()
        }


def test_the_tables_have_the_columns_that_are_written(storage):
    inspector = sqlalchemy.inspect(storage.engine)
    there = {t: {c["name"]: c["nullable"] for c in inspector.get_columns(t)} for t in COLUMNS}
    assert there == COLUMNS
    written = (
        optuna_tables.TRIALS, optuna_tables.USER, optuna_tables.SYSTEM, optuna_tables.PARAMS, optuna_tables.VALUES
    )  # fmt: skip
    assert set(written) == set(COLUMNS)


def test_the_names_that_are_used_exist(storage):
    assert isinstance(storage.engine, sqlalchemy.Engine)
    assert callable(storage.remove_session) and callable(storage.get_trial_id_from_study_id_trial_number)
    assert optuna.study.study._SYSTEM_ATTR_METRIC_NAMES == optuna_tables.OBJECTIVES


@pytest.mark.parametrize("values", [[1.5, -2.0], [math.inf, -math.inf], None])
def test_rows_are_those_that_optuna_itself_writes(storage, study, zone, values):
    begun, ended = datetime(2026, 3, 29, 1, 30, 0, 250_000), datetime(2026, 3, 29, 4, 0)
    storage.create_new_trial(
        study,
        optuna.trial.create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            values=values,
            params=CONFIG,
            distributions={
                "x": FloatDistribution(0.5, 8.0, log=True),
                "n": IntDistribution(0, 10, step=2),
                "mode": CategoricalDistribution(("a", "b")),
            },
            user_attrs={**ATTRIBUTES, "outcome": {"ok": True}},
            system_attrs={"constraints:recall": -0.5},
        ),
    )
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trials SET datetime_start = NULL, datetime_complete = NULL"))
    optunas = rows(storage)
    tables = TrialTables(storage)
    number, trial_id = tables.start(study, None, begun, ATTRIBUTES, CONFIG, SPACE)
    assert number == 1 and trial_id == tables.trial_id(study, 1)
    assert storage.get_trial(trial_id).state == TrialState.RUNNING
    assert storage.get_trial(trial_id).datetime_start == begun, "local time, as Optuna has it"
    assert tables.finish(trial_id, ended, {"outcome": {"ok": True}}, {"recall": -0.5}, values)
    trial = storage.get_trial(trial_id)
    assert (trial.values, trial.params, trial.constraints) == (values, CONFIG, {"recall": -0.5})
    assert (trial.datetime_start, trial.datetime_complete) == (begun, ended)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trials SET datetime_start = NULL, datetime_complete = NULL"))
    ours = rows(storage)
    assert ours == {name: sorted(2 * kept, key=repr) for name, kept in optunas.items()}
    assert not tables.finish(trial_id, ended, {"outcome": {}}, {}, values), "it has ended already"
    assert rows(storage) == ours


def test_no_other_module_knows_the_tables():
    words = (
        ".reflect(",
        "remove_session",
        "get_trial_id_from_study_id",
        "_SYSTEM_ATTR",
        *[t for t in COLUMNS if "_" in t],
    )
    for path in CORE.rglob("*.py"):
        if path.name != "optuna_tables.py":
            text = path.read_text(encoding="utf-8")
            assert not [word for word in words if word in text], path
