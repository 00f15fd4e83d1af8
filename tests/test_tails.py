"""What is told beside a verdict: the slowest requests, and why runs were repeated."""

import numpy as np
import pytest

from tunewright.report.verdicts import repeated
from tunewright.sessions.session import Session
from tunewright.sessions.tails import tails
from tunewright.space import Int, Space
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.target import BaseTarget, Measurement, Metric

RATE = Metric(name="throughput", direction="max", unit="requests/s")
P99, P95 = Metric(name="p99", direction="min", unit="ms"), Metric(name="p95", direction="min", unit="ms")


def runs(**ratios):
    """Ten pairs of a verification; each metric of the candidate is so many times the default's, within 2 %."""
    rng, found = np.random.default_rng(1), []
    for _ in range(10):
        found.append({"of": "default", "status": "ok", "values": dict.fromkeys(ratios, 10.0)})
        values = {name: 10 * ratio * float(rng.uniform(0.99, 1.01)) for name, ratio in ratios.items()}
        found.append({"of": "candidate", "status": "ok", "values": values})
    return found


@pytest.mark.parametrize(
    ("ratio", "begins"),
    [
        (1.5, "Warning: latency became worse: p99 is 1.5"),
        (0.5, "Beside it, p99 is 0.50 times"),
        (1.0, "Beside it, p99 is 1.00"),
    ],
)
def test_the_change_of_a_percentile_is_told_and_a_worse_one_warned_of(ratio, begins):
    said = tails([RATE, P99], [RATE], runs(throughput=2.0, p99=ratio), 0)
    assert said.startswith(begins) and "95 % interval" in said


def test_both_percentiles_and_neither():
    both = tails([RATE, P95, P99], [RATE], runs(throughput=2.0, p95=0.9, p99=1.3), 0)
    assert "Beside it, p95 is 0.90" in both and "worse: p99 is 1.3" in both
    assert tails([RATE, P99], [P99], runs(throughput=2.0, p99=2.0), 0) == "", "the verdict is about it"
    assert tails([RATE], [RATE], runs(throughput=2.0), 0) == "" == tails([RATE, P99], [RATE], [], 0)


class Queueing(BaseTarget):
    """More throughput for slower slowest requests; every fifth run fails."""

    name, isolated, metrics = "queueing", False, (RATE, P99)
    space = Space([Int(name="batch", low=1, high=4, default=1)])

    def __init__(self):
        self.measured = 0

    def measure(self, config, *, workload, seed, budget):
        self.measured += 1
        if self.measured % 5 == 0:
            return Measurement(status="failed", reason="connection reset")
        noise = float(np.random.default_rng(seed).uniform(0.99, 1.01))
        return Measurement(values={"throughput": 100.0 * config["batch"] * noise, "p99": 2.0 * config["batch"] * noise})


def test_a_session_tells_the_worse_percentile_and_the_repeated_runs(store, capsys):
    from tunewright.cli.display import show_session
    from tunewright.cli.terminal import screen
    from tunewright.report.report import render_report

    with Session.create(Plan(target="t", tuner="grid"), "a", store, target=Queueing()) as session:
        verdict = session.run(trials=4)
    assert verdict.improved and "Warning: latency became worse: p99 is" in verdict.sentence
    document = export(store, "a")
    said = repeated(document)
    assert "failed and were repeated (most often: connection reset)" in said
    show_session(screen(), document)
    shown = " ".join(capsys.readouterr().out.split())
    assert "connection reset" in shown and "latency became worse" in shown
    page = render_report(document)
    assert "connection reset" in page and "latency became worse" in page


def test_nothing_is_said_where_nothing_was_repeated():
    trial = {"step": 1, "runs": [{"of": "candidate", "status": "ok"}, {"of": "default", "status": "ok"}]}
    document = {"plan": {"trust": "normal"}, "trials": [trial], "verdict": None}
    assert repeated(document) == ""
    trial["runs"] *= 2
    assert repeated(document) == "Runs beyond the least: 1 more for trials that could not be told from the best by 1."
