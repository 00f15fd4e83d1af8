"""A slice of benchmarks/pruning.py: whole sessions on programs of which it is known what matters."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from pruning import JUDGED_ON, STAGES, Program, each, sessions, together

PLACEBOS = ("n0", "n1", "n2")


def config(program, *on):
    names = (*program.names, *PLACEBOS[: program.placebos])
    return {n: "on" if n in on else "off" for n in names}


@pytest.mark.parametrize(
    ("effect", "on", "needed"),
    [
        (each(p=2.0, q=1.5), ("p", "q", "n0"), [{"p", "q"}]),
        (each(p=2.0), ("p", "q", "n1"), [{"p"}]),
        (together(2.0), ("p", "q"), [{"p", "q"}]),
        (together(2.0), ("p", "n0"), [set()]),
        (together(2.0, alone=2.0), ("p", "q", "n2"), [{"p"}, {"q"}]),
        (together(2.0, alone=0.8), ("p", "q"), [{"p", "q"}]),
    ],
)
def test_what_a_configuration_needs_is_known(effect, on, needed):
    program = Program(says="", names=("p", "q"), placebos=3, effect=effect, noise=(0.1,))
    assert program.needed(config(program, *on)) == [frozenset(s) for s in needed]


@pytest.mark.parametrize(("place", "level"), [(0, "fast"), (5, "normal")], ids=["one of five", "two together"])
def test_sessions_recommend_what_matters(place, level):
    found = sessions(JUDGED_ON[place], 0.05, level, 3, seed=5000)
    assert found.sessions == 3 and found.shown >= 2
    assert found.lost == 0 and found.exact >= found.shown - 1
    assert found.exact + found.lost + found.kept == found.shown
    assert all(found.runs[stage] for stage in STAGES[:4])
