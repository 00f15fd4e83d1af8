import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import appears, ends, of_this_test
from targets import MARK, Misbehaving

from tunewright.errors import TargetError
from tunewright.measuring.isolation import call_isolated, measure_once
from tunewright.target import BaseTarget, Budget


def measured(how, tmp_path, seconds=20.0, memory=None):
    target = Misbehaving()
    budget = Budget(workdir=tmp_path, seconds=seconds, memory_bytes=memory)
    return measure_once(target, {"how": how}, workload="default", seed=0, budget=budget)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "exited with code 3 .* about to exit"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL"), ("raise", "ValueError: no luck"),
        ("nan", "not a finite number"), ("infinite", "not a finite number"), ("text", "'fast'"),
        ("missing", "no value for metric 'speed' .*sped"), ("none", "gave: none"),
    ],
)  # fmt: skip
def test_every_way_to_fail_has_a_reason(how, words, tmp_path):
    found = measured(how, tmp_path)
    assert found.status == "failed"
    assert re.search(words, found.reason), found.reason


def test_well():
    assert measured("well", Path("/tmp")).values == {"speed": 1.0}


def test_a_hang_is_killed_with_its_children(tmp_path):
    begun = time.monotonic()
    found = measured("hang", tmp_path, seconds=1.5)
    assert found.status == "timed out"
    assert "limit of 1.5 s" in found.reason
    assert time.monotonic() - begun < 100, "it waits for the limit, not for the benchmark's 600 s"
    assert ends(MARK), of_this_test(MARK)


@pytest.mark.parametrize("how", ["fork", "escape"])
def test_children_that_outlive_a_good_run_are_killed_and_noted(how, tmp_path):
    found = measured(how, tmp_path)
    assert found.ok
    assert "outlived" in found.traces
    assert ends(MARK), of_this_test(MARK)


def test_memory_is_limited(tmp_path):
    found = measured("eat", tmp_path, memory=300 * 2**20)
    assert found.status == "killed"
    assert "limit 0.29 GiB" in found.reason


def test_the_group_dies_with_a_killed_session(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from targets import Misbehaving\n"
        "from tunewright.measuring.isolation import measure_once\nfrom tunewright.target import Budget\nfrom pathlib import Path\n"
        "measure_once(Misbehaving(), {'how': 'hang'}, workload='default', seed=0, budget=Budget(workdir=Path(sys.argv[1]), seconds=300))"
    )
    session = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)])
    assert appears(MARK), "the hanging benchmark never started"
    os.kill(session.pid, signal.SIGKILL)
    session.wait()
    assert ends(MARK), of_this_test(MARK)


def test_a_failing_preparation_says_what_and_where(tmp_path):
    class Unready(Misbehaving):
        def prepare(self, *, workload, seed, budget):
            raise TargetError("no disk")

    with pytest.raises(TargetError, match="'misbehaving', prepare: no disk"):
        call_isolated(Unready(), "prepare", workload="default", seed=0, budget=Budget(workdir=tmp_path))


def test_targets_without_isolation_cannot_break_the_session(tmp_path):
    class InProcess(BaseTarget):
        name, isolated = "here", False
        metrics = Misbehaving.metrics

        def measure(self, config, *, workload, seed, budget):
            raise KeyError("oops")

    found = measure_once(InProcess(), {}, workload="default", seed=0, budget=Budget(workdir=tmp_path))
    assert (found.status, found.reason) == ("failed", "KeyError: 'oops'")
