"""Numbers at the door of ``tunewright simulate``: nothing crashes, hangs, warns or is misread, whatever they are."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from tunewright.envs.scheduling import cli as C
from tunewright.envs.scheduling import limits
from tunewright.errors import ConfigError

STRANGE = (float("nan"), float("inf"), -float("inf"), 0, -1, 1e308, -1e308, 1e-320, 1e-308, 10**20, 10**400)
OPTIONS = {
    "serving": ("speed", "limit", "ttft_s", "tpot_s", "error", "tp", "prefill_gpus", "seed"),
    "spark": ("cores", "users", "jobs", "partition_s", "noise", "overhead_s", "weights", "seed"),
    "cluster": ("speed", "load", "limit", "seed"),
    "serverless": ("keep_s", "seed"),
}
WHOLE = ("limit", "tp", "prefill_gpus", "seed", "cores", "users", "jobs")
SHOWN = {"limit": ("--requests", "--jobs"), "ttft_s": "--ttft", "tpot_s": "--tpot", "overhead_s": "--overhead", "weights": "--weight", "keep_s": "--keep"}  # fmt: skip


def simulate(which, **given):
    """Run a small simulation in this process."""
    if which == "serving":
        return C.serving(
            "synthetic:chat",
            **{"model": "llama3-8b", "cluster": "h100:1", "policy": "sjf", "options": ["requests=30"], **given},
        )
    if which == "spark":
        given = {"policy": "uwfq", "estimates": "noisy", "cores": 4, "jobs": 10, "users": 3, **given}
        return C.spark(**given)
    if which == "cluster":
        return C.cluster("synthetic", **{"policy": "sjf-backfill", "nodes": "2x8", "limit": 20, **given})
    return C.serverless(
        "synthetic", **{"policy": "fixed", "keep_s": 60.0, "options": ["hours=0.5", "functions=10"], **given}
    )


def refused_or_clean(act):
    """Return the message of a refusal, or None where it ran; warnings of NumPy are failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            act()
        except ConfigError as error:
            assert "\n" not in str(error)
            return str(error)
    return None


@pytest.mark.parametrize(("which", "option"), [(w, o) for w, options in OPTIONS.items() for o in options])
def test_every_number_is_taken_or_refused_by_name(which, option):
    shown = SHOWN.get(option, f"--{option.replace('_', '-')}")
    for value in STRANGE:
        if option in WHOLE and isinstance(value, float):
            continue  # the command line refuses it
        words = refused_or_clean(lambda v=value: simulate(which, **{option: [v] if option == "weights" else v}))
        if not (-1 <= value <= 1e6) or value != value:
            assert words is not None, f"{option}={value} was accepted"
        if words is not None and not words.startswith(("an engine", "tp", "prefill")):
            assert words.startswith(shown), words
            assert " from " in words and " to " in words, words


def test_a_whole_number_is_called_so():
    with pytest.raises(
        ConfigError, match=r"--jobs must be 0, or a whole number from 1 to 1,000,000,000, not 99999999999999999999"
    ):
        simulate("cluster", limit=99999999999999999999)
    with pytest.raises(ConfigError, match="jobs must be a whole number from 1 to"):
        simulate("spark", jobs=0, options=["jobs=99999999999999999999"])


@pytest.mark.parametrize("which", ["serving", "cluster"])
def test_settings_of_policies_are_taken_or_refused(which):
    from tunewright.envs.scheduling.cluster.simulate import Policy
    from tunewright.envs.scheduling.serving.policies import Knobs

    defaults = vars((Knobs if which == "serving" else Policy)())
    for name, default in defaults.items():
        if isinstance(default, bool | str):
            continue
        for value in ("nan", "inf", "-inf", "0", "-1", "1e308", "1e-320", str(10**20)):
            words = refused_or_clean(lambda n=name, v=value: simulate(which, settings=[f"{n}={v}"]))
            if value in ("nan", "inf", "1e308", str(10**20)):
                assert words is not None and name in words, (name, value, words)


@pytest.mark.parametrize("which", ["serving", "cluster", "swf"])
@pytest.mark.parametrize("value", ["-1e308", "1e308", "nan", "inf", "1e20"])
def test_a_time_that_is_none_is_named_with_its_line(tmp_path, which, value):
    path = tmp_path / "trace.csv"
    if which == "serving":
        path.write_text(f"arrival_s,input_tokens,output_tokens\n0,10,10\n{value},10,10\n")
        act = lambda: C.serving(str(path), model="llama3-8b", cluster="h100:1", policy="sjf")  # noqa: E731
    elif which == "cluster":
        path.write_text(f"submit_s,run_s,gpus,cpus\n0,1,1,1\n{value},1,1,1\n")
        act = lambda: C.cluster(str(path), policy="fifo")  # noqa: E731
    else:
        path.write_text("1 0 0 5 1 0 0 1 5 0 1 1\n" + f"2 {value} 0 5 1 0 0 1 5 0 1 1\n")
        act = lambda: C.cluster(str(path), policy="fifo")  # noqa: E731
    words = refused_or_clean(act)
    assert words and f"{path}, line {2 if which == 'swf' else 3}" in words and "1e+12" in words


@pytest.mark.parametrize("row", ["0,1e308,1,1", "0,1,1e300,1", "0,1,1,1e300", "0,nan,1,1", "0,-5,1,1", "0,1,-1,1"])
def test_what_a_job_takes_is_in_range(tmp_path, row):
    path = tmp_path / "trace.csv"
    path.write_text(f"submit_s,run_s,gpus,cpus\n{row}\n")
    words = refused_or_clean(lambda: C.cluster(str(path), policy="fifo"))
    assert words and f"{path}, line 2" in words


KERNELS = """
import numpy as np
from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism.serving import Service
from tunewright.envs.scheduling.cluster import decide, jobs as CJ, kernel as CK, simulate as CM, state as CS
from tunewright.envs.scheduling.serving import kernel as K, policies as P, simulate as M
from tunewright.envs.scheduling.serving.trace import load
from tunewright.envs.scheduling.spark import jobs as J, kernel as SK, simulate as S

mix = J.generate(4, {"jobs": 40, "users": 4}, 1)
for value in (np.nan, np.inf, -np.inf, 1e308):
    for policy in ("sjf", "uwfq", "weighted", "critical-path"):
        s = S.systems([mix], 4, S.Options(policy=policy))
        s.jobs["expected"], s.users["weight"], s.stages["path_s"] = value, value, value
        SK.run(s.address, 0, 10**6)
        assert s.jobs[0]["stages_left"].sum() == 0, (value, policy)
    s = S.systems([mix], 4, S.Options())
    s.stages["task_s"], s.durations_s[:] = value, value
    SK.run(s.address, 0, 10**6)
    work = np.array([j.work for j in mix])
    SK.fluid(np.array([j.arrival_s for j in mix]), np.array([j.user for j in mix]), work, np.full(4, value), 4.0,
             work.copy(), np.zeros(4, np.int64), np.full(len(mix), np.inf))
print("spark")
service = Service(model=models.load("llama3-8b"), nodes=clusters.load("h100:1").nodes)
requests = load("synthetic:chat", {"requests": "300", "rate": "100"}, 0)
for value in (np.nan, np.inf, -np.inf, 1e308):
    for policy in ("sjf", "slo", "fair"):
        knobs = P.policy(policy, max_seqs=32)
        setup = M.setup(service, M.default_plan(service), knobs)
        s = M.systems([requests], setup, knobs)
        s.replicas["total_blocks"] = s.replicas["free_blocks"] = 300  # so that requests are preempted
        s.requests["work_s"] = s.requests["first_work_s"] = value
        s.systems["ttft_limit_s"] = value
        K.run(s.address, 0, setup.engine, setup.engine, 10**6, 0)
        assert np.isfinite(s.requests[0]["done_at"]).all() or (s.requests[0]["phase"] != 0).all(), (value, policy)
print("serving")
where = CJ.nodes("2x8")
jobs = CJ.generate(where, {"jobs": 60, "load": 2}, 1)
for value in (np.nan, np.inf, -np.inf, 1e308):
    for policy in CM.POLICIES:
        s = CM.systems([jobs], where, CM.policy(policy))
        s.jobs["estimate_s"] = value
        CK.run(s.address, 0, 10**6)
print("cluster")
"""


@pytest.mark.slow
def test_no_kernel_leaves_its_memory_or_hangs_whatever_the_keys_are():
    got = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, timeout=300)
    assert got.returncode == 0 and got.stdout.split() == ["spark", "serving", "cluster"], (
        got.returncode,
        got.stdout,
        got.stderr[-2000:],
    )


def test_a_clock_far_on_does_not_stand_still(tmp_path):
    """At 1e12 s a float's step is 1e-4 s: jobs of ``las`` must still fall into lower queues."""
    path = tmp_path / "trace.csv"
    rows = [f"{9e11 + 0.37 * k},{5000 + k},1" for k in range(20)]
    path.write_text("submit_s,run_s,gpus\n0,10,1\n" + "\n".join(rows) + "\n")
    code = f"from tunewright.envs.scheduling import cli as C; C.cluster({str(path)!r}, policy='las', nodes='1x8')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0


def test_looks_at_the_balance_are_bounded(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("submit_s,run_s,gpus\n0,1e12,1\n1,1e12,1\n")
    with pytest.raises(ConfigError, match="every_s"):
        C.cluster(str(path), policy="balance", nodes="2x8")


def test_wild_predictions_stay_whole_numbers():
    from tunewright.envs.scheduling.serving.simulate import predicted

    got = predicted(np.full(1000, 10**6), limits.RANGES["error"].most, 0)
    assert got.min() >= 1 and got.max() <= 10**12


@pytest.mark.parametrize("value", ["1e12", "1e-12", "100", "nan", "1e308"])
@pytest.mark.parametrize(
    ("which", "name"),
    [
        ("spark", "cv"),
        ("spark", "task_power"),
        ("cluster", "cv"),
        ("serverless", "rate_spread"),
        ("serverless", "cold_spread"),
    ],
)
def test_wild_parameters_of_generated_work_are_taken_or_refused(which, name, value):
    given = [f"{name}={value}", *(["hours=0.5", "functions=10"] if which == "serverless" else [])]
    words = refused_or_clean(lambda: simulate(which, options=given))
    assert words is None or words.startswith(name)
