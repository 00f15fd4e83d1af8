"""A slice of benchmarks/noise_sessions.py: whole sessions on noise, with failures, drift and bounds."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from noise_sessions import SCENES, clopper_pearson, sessions


@pytest.mark.parametrize("level", ["fast", "normal", "strict"])
@pytest.mark.parametrize("scene", ["noise", "fails10", "all"])
def test_no_session_is_lost_and_hardly_any_claims_a_gain(scene, level):
    found = sessions(SCENES[scene], level, 4, seed=1000)
    assert (found.lost, found.sessions) == (0, 4)
    assert found.improved <= 1
    assert found.runs > 4 * 10


def test_the_machines_differ_as_they_say():
    assert sessions(SCENES["step"], "normal", 3).said_changed == 3
    assert sessions(SCENES["bound_gain"], "strict", 4).improved >= 1


def test_exact_intervals_match_the_library():
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    for hits, of in ((0, 200), (5, 200), (199, 200), (200, 200), (1700, 1800)):
        exact = stats.binomtest(hits, of).proportion_ci(method="exact")
        assert clopper_pearson(hits, of) == pytest.approx((exact.low, exact.high), abs=1e-9)
