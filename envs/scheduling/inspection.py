"""Looks into simulations: the plain reference beside the compiled simulator, and who ran where and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunewright.errors import ConfigError
from tunewright.report.timeline import Bar

CHECKED_REQUESTS, CHECKED_JOBS = 300, 150  # the plain reference serves so many


def check_serving(requests: Any, system: Any, knobs: Any, limits: Mapping[str, Any]) -> str:
    """Run the plain reference with its invariants beside the compiled simulator."""
    from tunewright.envs.scheduling.serving import reference as R
    from tunewright.envs.scheduling.serving import simulate as M

    few = requests.first(CHECKED_REQUESTS)
    o = M.simulate(few, system, knobs, **limits)
    asks = o.systems.requests[0]
    r = R.Reference(few, system, knobs, ttft_s=limits["ttft_s"], predicted=asks["predicted"], each=R.invariants)
    ends = np.array([a.done_at for a in r.run()])
    if not np.allclose(ends, asks["done_at"], rtol=1e-9):
        raise ConfigError(
            f"request {int(np.argmin(np.isclose(ends, asks['done_at'])))}: the compiled simulator differs from the"
            " plain one"
        )
    return f"{len(few)} requests: no rule broken, and the compiled simulator agrees with the plain one"


def bars_of_serving(o: Any) -> list[Bar]:
    """Return who held a replica's slots when: prompts faint, outputs full."""
    bars = []
    for i, a in enumerate(o.systems.requests[0]):
        if a["replica"] < 0 or not np.isfinite(a["done_at"]):
            continue
        lane, who = f"replica {a['replica']}", f"user {a['user']}"
        words = f"request {i}: {a['prompt']} in, {a['output']} out"
        bars.append(
            Bar(
                lane=lane,
                start_s=float(a["started"]),
                end_s=float(a["first_at"]),
                who=who,
                what=f"{words}, prompt",
                faint=True,
            )
        )
        if a["done_at"] > a["first_at"]:
            bars.append(
                Bar(
                    lane=lane, start_s=float(a["first_at"]), end_s=float(a["done_at"]), who=who, what=f"{words}, output"
                )
            )
    return bars


def check_spark(mix: Sequence[Any], cores: int, how: Any) -> str:
    """Run the plain reference with its invariants beside the compiled simulator."""
    from tunewright.envs.scheduling.spark import reference as R
    from tunewright.envs.scheduling.spark import simulate as M

    mix = mix[:CHECKED_JOBS]
    o = M.simulate(mix, cores, how)
    expected = M.systems([mix], cores, how).jobs[0]["expected"]
    done = np.array([j.done_at for j in R.Reference(mix, cores, how, expected, R.invariants).run()])
    if not np.allclose(done, o.systems.jobs[0]["done_at"], rtol=1e-9):
        raise ConfigError("the compiled simulator differs from the plain one")
    return f"{len(mix)} jobs: no rule broken, and the compiled simulator agrees with the plain one"


def bars_of_spark(o: Any) -> list[Bar]:
    """Return when tasks ran."""
    bars, stages = [], o.systems.stages[0]
    for e in o.systems.log[0][: int(o.systems.systems[0]["logged"])]:
        j = int(stages[e["stage"]]["job"])
        for _ in range(int(e["tasks"])):
            bars.append(
                Bar(
                    lane="cores", start_s=float(e["start"]), end_s=float(e["end"]), who=f"user {o.jobs[j].user}",
                    what=f"job {j} ({o.jobs[j].name}), stage {e['stage']}",
                )
            )  # fmt: skip
    return bars


def check_cluster(jobs: Any, where: Any, chosen: Any) -> str:
    """Run the plain reference with its invariants beside the compiled simulator."""
    from tunewright.envs.scheduling.cluster import reference as R
    from tunewright.envs.scheduling.cluster import simulate as M

    jobs = jobs.first(CHECKED_JOBS)
    o = M.simulate(jobs, where, chosen)
    done = np.array([j.done_at for j in R.Reference(jobs, where, chosen, R.invariants).run()])
    if not np.allclose(done, o.systems.jobs[0]["done_at"], rtol=1e-9):
        raise ConfigError("the compiled simulator differs from the plain one")
    return f"{len(jobs)} jobs: no rule broken, and the compiled simulator agrees with the plain one"


def bars_of_cluster(o: Any) -> list[Bar]:
    """Return when jobs ran on which node."""
    bars, rows = [], o.systems.jobs[0]
    for e in o.systems.log[0][: int(o.systems.systems[0]["logged"])]:
        j = rows[e["job"]]
        size = f"{j['gpus']} GPUs" if j["gpus"] else f"{j['cpu'] // 1000} CPUs"
        bars.append(
            Bar(
                lane=f"node {e['node']}",
                start_s=float(e["start"]),
                end_s=float(e["end"]),
                who=f"user {j['user']}",
                what=f"job {e['job']}: {size}",
            )
        )
    return bars
