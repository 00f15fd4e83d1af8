"""The command ``tunewright simulate``: requests on LLM servers, jobs on Spark, jobs on clusters, functions that start cold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.envs.scheduling import limits as L
from tunewright.errors import ConfigError
from tunewright.report.timeline import Bar, write
from tunewright.store.files import check_size

if TYPE_CHECKING:
    from rich.console import Console

_CORE_BYTES = 64  # of memory for a core that is simulated
CHECKED_REQUESTS, CHECKED_JOBS = 300, 150  # the plain reference serves so many
LOGGED = 20_000


def texts_of(pairs: Sequence[str], what: str) -> dict[str, str]:
    """Return ``NAME=VALUE`` settings.

    Raises:
        ConfigError: one has no ``=``.
    """
    found = {}
    for item in pairs:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{what} takes NAME=VALUE, not {item!r}")
        found[name.strip()] = value.strip()
    return found


# --- serving


def serving(
    trace: str, *, model: str, cluster: str, policy: str, settings: Sequence[str] = (), options: Sequence[str] = (), tp: int = 0,
    prefill_gpus: int = 0, precision: str = "bf16", backend: str = "vllm", speed: float = 1.0, limit: int = 0,
    ttft_s: float = 2.0, tpot_s: float = 0.1, error: float = 0.0, seed: int = 0, check: bool = False,
    timeline: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Serve a trace under a policy; see ``tunewright simulate serving --help`` for the arguments."""
    from tunewright.envs.parallelism import clusters, models
    from tunewright.envs.parallelism.serving import Service
    from tunewright.envs.parallelism.steptime import stack_of
    from tunewright.envs.scheduling.serving import policies as P
    from tunewright.envs.scheduling.serving import simulate as M
    from tunewright.envs.scheduling.serving.state import REJECTED
    from tunewright.envs.scheduling.serving.trace import load

    L.check(
        "--", speed=speed, requests=limit, ttft=ttft_s, tpot=tpot_s, error=error, tp=tp, prefill_gpus=prefill_gpus, seed=seed
    )  # fmt: skip
    knobs = P.policy(policy, **P.settings(texts_of(settings, "--set")))
    service = Service(model=models.load(model), nodes=clusters.load(cluster).nodes, backend=backend)
    stack_of(backend, service.nodes.kind)  # an unknown backend
    requests = load(trace, texts_of(options, "--option"), seed).faster(speed)
    if limit:
        requests = requests.first(limit)
    system = M.setup(service, M.default_plan(service, tp=tp, precision=precision, prefill_gpus=prefill_gpus), knobs)
    limits = {"ttft_s": ttft_s, "tpot_s": tpot_s, "error": error, "seed": seed}
    M.simulate(requests.first(1), system, knobs, **limits)  # type: ignore[arg-type]  # compiled now, so not timed
    o = M.simulate(requests, system, knobs, log=LOGGED if timeline else 0, **limits)  # type: ignore[arg-type]
    stable, words = M.stability(o)
    rejected = int((o.systems.requests[0]["phase"] == REJECTED).sum())
    document: dict[str, Any] = {
        "policy": policy, "about": P.POLICIES[policy][0], "trace": requests.source, "requests": len(requests),
        "rejected": rejected, "stable": stable, "unstable_because": words, "metrics": M.metrics(o),
        "requests_per_s": (len(requests) - 1) / requests.duration_s if requests.duration_s > 0 else None,
        "limits": {"ttft_s": ttft_s, "tpot_s": tpot_s}, "system": system.words, "gpus": system.gpus,
        "knobs": vars(knobs), "parameters": dict(requests.parameters), "notes": list(requests.notes),
        "requests_per_s_simulated": len(requests) / max(o.seconds, 1e-9),
    }  # fmt: skip
    if rejected:
        document["notes"].append(f"{rejected} requests need more cache than a replica has, and were refused")
    if check:
        document["check"] = _check_serving(requests, system, knobs, limits)
    if timeline:
        document["files"] = write(timeline, f"{requests.source}, policy {policy}", _serving_bars(o), system.words)
    return M.finite(document)  # type: ignore[no-any-return]


def _check_serving(requests: Any, system: Any, knobs: Any, limits: Mapping[str, Any]) -> str:
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
            f"request {int(np.argmin(np.isclose(ends, asks['done_at'])))}: the compiled simulator differs from the plain one"
        )
    return f"{len(few)} requests: no rule broken, and the compiled simulator agrees with the plain one"


def _serving_bars(o: Any) -> list[Bar]:
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


# --- Spark


def spark(
    *, policy: str, cores: int = 32, users: int = 0, jobs: int = 0, dags: str = "", options: Sequence[str] = (),
    partition: bool = False, partition_s: float = 0.0, estimates: str = "perfect", noise: float = 0.5,
    weights: Sequence[float] = (), overhead_s: float | None = None, seed: int = 0, check: bool = False,
    timeline: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run many users' jobs; see ``tunewright simulate spark --help`` for the arguments."""
    from tunewright.envs.scheduling.serving.simulate import finite
    from tunewright.envs.scheduling.spark import jobs as J
    from tunewright.envs.scheduling.spark import simulate as M

    L.check(
        "--", cores=cores, users=users, jobs=jobs, partition_s=partition_s, noise=noise, overhead=overhead_s, seed=seed
    )
    for weight in weights:
        L.check("--", weight=weight)
    given: dict[str, Any] = dict(texts_of(options, "--option"))
    given |= {k: v for k, v in (("users", users), ("jobs", jobs)) if v}
    how = M.Options(
        policy=policy, partition_s=partition_s or (M.PARTITION_S if partition else 0.0), estimates=estimates, noise=noise,
        overhead_s=M.OVERHEAD_S if overhead_s is None else overhead_s, weights=tuple(weights), seed=seed,
    )  # fmt: skip
    M.check(how)
    check_size(f"--cores {cores}", cores, _CORE_BYTES)
    mix = J.generate(cores, given, seed, pool_of(dags))
    M.simulate(mix[:1], cores, how)  # compiled now, so not timed
    o = M.simulate(mix, cores, how, log=LOGGED if timeline else 0)
    stable, words = M.stability(o)
    document: dict[str, Any] = {
        "policy": policy, "about": M.POLICIES[policy], "partition_s": how.partition_s, "cores": cores, "jobs": len(mix),
        "users": len({j.user for j in mix}), "tasks": o.tasks, "stable": stable, "unstable_because": words,
        "metrics": M.metrics(o), "parameters": {**J.parameters_of(given), "seed": seed, "dags": dags}, "estimates": estimates,
        "tasks_per_s_simulated": o.tasks / max(o.seconds, 1e-9), "decisions_per_s_simulated": o.decisions / max(o.seconds, 1e-9),
    }  # fmt: skip
    if check:
        document["check"] = _check_spark(mix[:CHECKED_JOBS], cores, how)
    if timeline:
        document["files"] = write(timeline, f"{len(mix)} jobs, policy {policy}", _spark_bars(o), f"{cores} cores")
    return finite(document)  # type: ignore[no-any-return]


def pool_of(dags: str) -> list[Any]:
    """Return measured jobs to draw from: TPC-H's DAGs, a workflow, or a folder of these; none for ""."""
    from tunewright.envs.scheduling.spark import jobs as J

    if not dags:
        return []
    path = Path(dags)
    if path.is_dir():
        found = [J.wfcommons(p) for p in sorted(path.glob("*.json*"))]
        if not found:
            raise ConfigError(f"{path} has no workflows (*.json, *.json.gz)")
        return found
    return J.tpch(path) if "tpch" in path.name else [J.wfcommons(path)]


def _check_spark(mix: Sequence[Any], cores: int, how: Any) -> str:
    from tunewright.envs.scheduling.spark import reference as R
    from tunewright.envs.scheduling.spark import simulate as M

    o = M.simulate(mix, cores, how)
    expected = M.systems([mix], cores, how).jobs[0]["expected"]
    done = np.array([j.done_at for j in R.Reference(mix, cores, how, expected, R.invariants).run()])
    if not np.allclose(done, o.systems.jobs[0]["done_at"], rtol=1e-9):
        raise ConfigError("the compiled simulator differs from the plain one")
    return f"{len(mix)} jobs: no rule broken, and the compiled simulator agrees with the plain one"


def _spark_bars(o: Any) -> list[Bar]:
    bars, stages = [], o.systems.stages[0]
    for e in o.systems.log[0][: int(o.systems.systems[0]["logged"])]:
        j = int(stages[e["stage"]]["job"])
        for _ in range(int(e["tasks"])):
            bars.append(
                Bar(lane="cores", start_s=float(e["start"]), end_s=float(e["end"]), who=f"user {o.jobs[j].user}", what=f"job {j} ({o.jobs[j].name}), stage {e['stage']}")
            )  # fmt: skip
    return bars


# --- clusters


def cluster(
    trace: str, *, policy: str, nodes: str = "auto", load: float = 0.9, settings: Sequence[str] = (), options: Sequence[str] = (),
    speed: float = 1.0, limit: int = 0, seed: int = 0, check: bool = False, timeline: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run a trace of jobs; see ``tunewright simulate cluster --help`` for the arguments."""
    from tunewright.envs.scheduling.cluster import jobs as J
    from tunewright.envs.scheduling.cluster import simulate as M
    from tunewright.envs.scheduling.serving.simulate import finite

    L.check("--", speed=speed, load=load, jobs=limit, seed=seed)
    changes: dict[str, Any] = {}
    for name, value in texts_of(settings, "--set").items():
        known = getattr(M.Policy(), name, None)
        try:
            if isinstance(known, bool):
                changes[name] = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}[
                    value.lower()
                ]
            else:
                changes[name] = value if known is None else type(known)(value)
        except (ValueError, KeyError):
            raise ConfigError(f"{name} cannot be {value!r}; its default is {known!r}") from None
    chosen = M.policy(policy, **changes)
    given = texts_of(options, "--option")
    if trace == "synthetic":
        where = J.nodes("16x8" if nodes == "auto" else nodes)
        jobs = J.generate(where, {"load": load, **({"jobs": limit} if limit else {}), **given}, seed)
    else:
        if given:
            raise ConfigError(f"{', '.join(given)}: only --trace synthetic takes parameters")
        jobs = J.read(Path(trace))
        jobs = jobs.first(limit) if limit else jobs
        where = J.nodes(nodes, jobs, load)
    jobs = jobs.faster(speed)
    M.simulate(jobs.first(1), where, chosen)  # compiled now, so not timed
    o = M.simulate(jobs, where, chosen, log=LOGGED if timeline else 0)
    stable, words = M.stability(o)
    refused = int(o.systems.systems[0]["refused"])
    notes = [*jobs.notes, *([f"{refused} jobs want more than the cluster has, and were refused"] if refused else [])]
    document: dict[str, Any] = {
        "policy": policy, "about": M.POLICIES[policy][0], "trace": jobs.source, "jobs": len(jobs), "rejected": refused,
        "nodes": where.words, "stable": stable, "unstable_because": words, "metrics": M.metrics(o), "settings": vars(chosen),
        "notes": notes, "jobs_per_s_simulated": len(jobs) / max(o.seconds, 1e-9),
    }  # fmt: skip
    if check:
        document["check"] = _check_cluster(jobs.first(CHECKED_JOBS), where, chosen)
    if timeline:
        document["files"] = write(timeline, f"{jobs.source}, policy {policy}", _cluster_bars(o), where.words)
    return finite(document)  # type: ignore[no-any-return]


def _check_cluster(jobs: Any, where: Any, chosen: Any) -> str:
    from tunewright.envs.scheduling.cluster import reference as R
    from tunewright.envs.scheduling.cluster import simulate as M

    o = M.simulate(jobs, where, chosen)
    done = np.array([j.done_at for j in R.Reference(jobs, where, chosen, R.invariants).run()])
    if not np.allclose(done, o.systems.jobs[0]["done_at"], rtol=1e-9):
        raise ConfigError("the compiled simulator differs from the plain one")
    return f"{len(jobs)} jobs: no rule broken, and the compiled simulator agrees with the plain one"


def _cluster_bars(o: Any) -> list[Bar]:
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


def serverless(trace: str, *, policy: str, keep_s: float, options: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """Run functions that start cold; see ``tunewright simulate serverless --help`` for the arguments."""
    from tunewright.envs.scheduling.cluster import serverless as F

    L.check("--", keep=keep_s, seed=seed)
    given = texts_of(options, "--option")
    if trace == "synthetic":
        x = F.generate(given, seed)
    elif given:
        raise ConfigError(f"{', '.join(given)}: only --trace synthetic takes parameters")
    else:
        x = F.read(Path(trace))
    return {"policy": policy, "keep_s": keep_s, "trace": x.source, "metrics": F.simulate(x, policy, keep_s)}


# --- for people


def show(screen: Console, d: Mapping[str, Any]) -> None:
    """Print a document for people."""
    from rich.table import Table
    from rich.text import Text

    words = f"{d['policy']}: {d['about']}" if "about" in d else d["policy"]
    screen.print(Text(words, style="bold"))
    counted = [f"{d[k]:,} {k}" for k in ("requests", "jobs", "tasks", "users", "rejected") if isinstance(d.get(k), int)]
    where = d.get("system") or d.get("nodes") or (f"{d['cores']} cores" if "cores" in d else "")
    screen.print(
        Text(" · ".join([*([d["trace"]] if "trace" in d else []), *counted, *([where] if where else [])]), style="dim")
    )
    if d.get("stable") is False:
        screen.print(Text(d["unstable_because"], style="bold red"))
    spreads = {k: v for k, v in d["metrics"].items() if isinstance(v, dict)}
    columns = list(dict.fromkeys(c for v in spreads.values() for c in v))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, values in spreads.items():
        table.add_row(Text(_label(name)), *("" if values.get(c) is None else f"{values[c]:,.4g}" for c in columns))
    screen.print(table)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in d["metrics"].items():
        if not isinstance(value, dict):
            words = "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            table.add_row(Text(_label(name)), words)
    screen.print(table)
    for note in d.get("notes", ()):
        screen.print(Text(note, style="yellow"))
    if "check" in d:
        screen.print(Text(f"checked: {d['check']}", style="green"))
    for file in d.get("files", ()):
        screen.print(Text(f"written: {file}", style="cyan"))
    speed = next(((k, v) for k, v in d.items() if k.endswith("_per_s_simulated")), None)
    if speed:
        screen.print(Text(f"simulated {speed[1]:,.0f} {speed[0].split('_per')[0]} a second", style="dim"))


def _label(name: str) -> str:
    for end, unit in (("_tokens_per_s", "tokens/s"), ("_requests_per_s", "requests/s"), ("_gb_s", "GB s"), ("_s", "s")):
        if name.endswith(end):
            return f"{name.removesuffix(end).replace('_', ' ')} [{unit}]"
    return name.replace("_", " ")
