"""The playbook advises by names, descriptions and workloads; nothing it proposes is illegal or against a guard."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.agents.llm.playbook import Playbook
from tunewright.envs.storage.lustre import model
from tunewright.envs.storage.lustre.target import LustreModel, open_target
from tunewright.errors import ConfigError, TunerError, UnknownNameError
from tunewright.knowledge.workload import traits
from tunewright.space import Choice, Int, Real, Space
from tunewright.target import Budget, Metric
from tunewright.testing import Sphere, check_tuner, run_tuner
from tunewright.tuner import Problem
from tunewright.tuners.hybrid import HybridTuner
from tunewright.tuners.llm import PlaybookTuner

WORKLOADS = sorted(model.WORKLOADS)


def about(name):
    return f"{name}: {model.WORKLOADS[name][0]}"


@pytest.mark.parametrize(
    ("text", "has", "hasnt"),
    [
        ("mdworkbench-8k: files of 8 KiB", {"metadata", "small"}, {"large", "sequential"}),
        ("c: YCSB C: reads only, Zipf keys", {"reads", "random"}, {"writes", "metadata"}),
        ("analytical: scans with aggregates and sorts", {"sequential", "sorts"}, {"writes"}),
    ],
)
def test_traits_of_a_workload(text, has, hasnt):
    assert has <= traits(text) and not hasnt & traits(text)


def test_what_is_advised_depends_on_the_workload():
    space = LustreModel().space

    def advised(name):
        return {a.name: a.value for a in Playbook(space, about(name)).advice()}

    assert advised("ior-16m")["stripe_count"] == -1 and advised("ior-16m")["stripe_size"] == 16 * 2**20
    assert "stripe_count" not in advised("mdworkbench-8k")  # 1 is the default already
    assert advised("mdworkbench-8k")["mdc.max_mod_rpcs_in_flight"] > 7


@given(strength=st.sampled_from([1.0, 2.0]), name=st.sampled_from(WORKLOADS))
def test_what_is_combined_is_legal(strength, name):
    space = LustreModel().space
    book = Playbook(space, about(name))
    config, taken = book.combine(space.default, book.advice(strength))
    assert space.problems(config) == [] and taken
    assert all(config[a.name] == a.value for a in taken)


def test_guards_come_before_advice():
    params = [Choice(name="fsync", choices=("on", "off"), default="on"), Int(name="shared_buffers", low=16, high=1 << 20, default=16384, unit="8kB")]  # fmt: skip
    free, guarded = Space(params), Space(params, ["fsync == 'on'"])
    assert Playbook(free, "writes").combine(free.default, Playbook(free, "writes").advice())[0]["fsync"] == "off"
    config, taken = Playbook(guarded, "writes").combine(guarded.default, Playbook(guarded, "writes").advice())
    assert config["fsync"] == "on" and [a.name for a in taken] == ["shared_buffers"]


@pytest.mark.parametrize("make", [PlaybookTuner, HybridTuner])
def test_contract(make):
    check_tuner(make, target=LustreModel(noise=0.0), trials=8 if make is PlaybookTuner else 4)
    check_tuner(make, target=Sphere(fail_above=0.95), trials=8)


def test_reasons_are_given():
    trials = run_tuner(PlaybookTuner, LustreModel(), trials=4)
    assert all(t.why.startswith("playbook: ") for t in trials[1:])
    assert "because" not in trials[1].why and "stripe_count = -1: one large file" in trials[1].why


def test_the_process_begins_after_the_playbooks_opening():
    trials = run_tuner(HybridTuner, LustreModel(noise=0.0), trials=6)
    opening = run_tuner(PlaybookTuner, LustreModel(noise=0.0), trials=4)
    assert [t.config for t in trials[:4]] == [t.config for t in opening]
    assert all("from the playbook" in t.why for t in trials[1:4])
    assert not any("from the playbook" in t.why for t in trials[4:])


def test_it_has_one_objective():
    from test_tuners import Mixed

    with pytest.raises(TunerError, match="one objective"):
        run_tuner(PlaybookTuner, Mixed(), trials=2, objectives=["speed", "recall"])


def test_five_attempts_are_never_worse_than_the_default_and_mostly_near_the_best():
    """Near: within a tenth of the best of a grid over the parameters that the model knows to matter."""
    target, near = LustreModel(noise=0.0), 0
    space = target.space
    grid = [
        space.fill({**space.default, "stripe_count": c, "stripe_size": s * 2**20, "osc.max_pages_per_rpc": p,
                    "mdc.max_rpcs_in_flight": m, "mdc.max_mod_rpcs_in_flight": m - 1, "llite.statahead_max": 8192})
        for c, s, p, m in itertools.product((1, 3, -1), (1, 4, 16, 64), (256, 4096), (8, 64))
    ]  # fmt: skip
    for name in WORKLOADS:
        phases = model.WORKLOADS[name][1]
        one = LustreModel(noise=0.0, known={name: model.WORKLOADS[name]})
        found = min(t.scores["seconds"] for t in run_tuner(PlaybookTuner, one, trials=5))
        assert found <= model.run_time(space.default, phases, target.cluster)[0]
        near += found <= 1.1 * min(model.run_time(c, phases, target.cluster)[0] for c in grid)
    assert near >= 6


# -- the Lustre model -----------------------------------------------------------------------------


def seconds(name, **changes):
    target = LustreModel(noise=0.0)
    config = {**target.space.default, **{k.replace("__", "."): v for k, v in changes.items()}}
    assert target.space.problems(config) == []
    return model.run_time(config, model.WORKLOADS[name][1], target.cluster)[0]


def test_stripes_help_shared_files_and_hurt_small_ones():
    assert seconds("ior-16m", stripe_count=-1) < seconds("ior-16m", stripe_count=3) < seconds("ior-16m") / 2
    assert seconds("mdworkbench-2k", stripe_count=-1) > 1.1 * seconds("mdworkbench-2k")
    assert seconds("ior-16m", stripe_count=-1) == seconds("ior-16m", stripe_count=5)


def test_more_in_flight_never_hurts_without_noise():
    for name in WORKLOADS:
        before = float("inf")
        for rpcs in (1, 2, 8, 32, 256):
            now = seconds(name, osc__max_rpcs_in_flight=rpcs)
            assert now <= before * (1 + 1e-9)
            before = now


def test_the_ratios_that_stellar_reports_are_near():
    """Up to 4.91 on IOR 16 MiB; 1.58 at the first guess on MDWorkbench 8 KiB (arXiv 2602.23220)."""
    best = seconds("ior-16m", stripe_count=-1, stripe_size=16 * 2**20, osc__max_pages_per_rpc=4096)
    assert 4.4 < seconds("ior-16m") / best < 5.5
    best = seconds("mdworkbench-8k", mdc__max_rpcs_in_flight=64, mdc__max_mod_rpcs_in_flight=63)
    assert 1.4 < seconds("mdworkbench-8k") / best < 1.75


def test_noise_is_fixed_by_the_seed(tmp_path):
    target, budget = LustreModel(), Budget(workdir=tmp_path)

    def once(seed):
        return target.measure(target.space.default, workload="ior-64k", seed=seed, budget=budget).values["seconds"]

    assert once(1) == once(1) != once(2)
    assert once(1) == pytest.approx(seconds("ior-64k"), rel=0.25)


def test_the_configuration_as_commands():
    target = LustreModel()
    config = {**target.space.default, "stripe_count": -1, "osc.max_rpcs_in_flight": 32}
    assert target.render(config).splitlines() == [
        "lfs setstripe -c -1 -S 1048576 DIRECTORY", "lctl set_param osc.*.max_rpcs_in_flight=32",
    ]  # fmt: skip


@pytest.mark.parametrize(("options", "error"), [({"targets": "x"}, ConfigError), ({"targets": "0"}, ConfigError), ({"foo": "1"}, UnknownNameError)])  # fmt: skip
def test_wrong_options(options, error):
    with pytest.raises(error):
        open_target("", options)


def test_the_command(cli, tmp_path):
    import json

    words = ("tune", "lustre", "--workload", "ior-16m", "--tuner", "playbook", "--trials", "5", "--seed", "1", "--json")
    done = json.loads(cli(*words, "--store", f"sqlite:///{tmp_path / 's.db'}", "--dir", tmp_path / "d").stdout)
    assert done["verdict"]["ratio"] > 4 if "verdict" in done else done["ratio"] > 4


def test_manual_and_trace_count_without_a_model(tmp_path):
    """A manual's definitions are searched where a name says nothing; a log says what the workload is."""
    page = tmp_path / "settings.conf"
    page.write_text(
        "# Number of worker threads, for all clients together.\n#\nknob_a = 2\n\n# Something else that is counted.\nother_b = 3\n"
    )
    log = tmp_path / "calls.txt"
    log.write_text(
        "% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n"
        " 90.00    0.900000          90     10000           pwrite64\n 10.00    0.100000          10     10000           fsync\n"
        "------ ----------- ----------- --------- --------- ----------------\n100.00    1.000000                 20000           total\n"
    )
    space = Space([Int(name="knob_a", low=1, high=64, default=2), Int(name="wal_buffers", low=1, high=64, default=2)])
    metric = Metric(name="s", direction="min")

    def named(**options):
        problem = Problem(
            space=space,
            metrics=[metric],
            objectives=["s"],
            workload="w",
            about="x",
            options=options,
            facts={"CPU_COUNT": 8},
        )
        return {a.name for a in Playbook.of(problem).advice()}

    assert "knob_a" not in named() and "knob_a" in named(manual=str(page))
    problem = Problem(
        space=space, metrics=[metric], objectives=["s"], workload="w", about="x", options={"trace": str(log)}
    )
    assert "writes" in Playbook.of(problem).seen
    with pytest.raises(ConfigError, match="no log that"):
        named(trace=str(page))


@pytest.mark.parametrize("strength", [1.0, 2.0])
@pytest.mark.parametrize("times", [1.0, 2.0, 8.0])
def test_memory_of_sessions_is_advised_with_all_of_them_in_mind(strength, times):
    """A sort and a hash in each connection and parallel worker at once fit in memory beside the shared buffers."""
    for ram in (2**29 * 2**n for n in range(11)):  # 0.5 to 512 GiB
        for connections, cores in itertools.product((10, 100, 2000), (1, 48)):
            params = [
                Int(name="work_mem", low=64, high=2**31 - 1, default=64, log=True, unit="kB"),
                Int(name="shared_buffers", low=16, high=2**30, default=16, log=True, unit="8kB"),
                Real(name="hash_mem_multiplier", low=1.0, high=1000.0, default=times),
            ]
            facts = {"RAM_BYTES": ram, "CPU_COUNT": cores, "connections": connections, "clients": 4}
            told = {a.name: a.value for a in Playbook(Space(params), "", facts).advice(strength)}
            assert "hash_mem_multiplier" not in told
            work = told.get("work_mem", 64) * 2**10
            whole = (connections + cores) * (1 + times) * work + told["shared_buffers"] * 2**13
            assert whole <= ram or work == 2**16, "the server takes no less than 64 kB"
