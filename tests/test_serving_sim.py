"""The serving simulator: against a plain one, closed forms, and what each policy promises."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism.serving import Part, ServePlan, Service
from tunewright.envs.parallelism.steptime import Engine, decode_s, iteration_s
from tunewright.envs.scheduling.serving import kernel, synthetic
from tunewright.envs.scheduling.serving import policies as P
from tunewright.envs.scheduling.serving import reference as R
from tunewright.envs.scheduling.serving import simulate as M
from tunewright.envs.scheduling.serving import trace as T
from tunewright.envs.scheduling.serving.requests import requests_of
from tunewright.errors import ConfigError, UnknownNameError

SERVICE = Service(model=models.load("llama3-8b"), nodes=clusters.load("h100:8").nodes)


def a_system(knobs, replicas=1, prefillers=0, blocks=0):
    plan = ServePlan(engines=Part(count=replicas), prefill=Part(count=prefillers) if prefillers else None)
    system = M.setup(SERVICE, plan, knobs)
    return replace(system, blocks=blocks, prefill_blocks=blocks if prefillers else 0) if blocks else system


def constant_steps(step_s, prefill_s=0.0):
    """An engine whose iterations all take the same time, but for prompts."""
    zeros = dict.fromkeys(Engine._fields, 0.0)
    return Engine(**{**zeros, "ranks": 1.0, "chance": 1.0, "fixed_s": step_s, "prefill_s": prefill_s, "most": 1e9})


CHANGES = st.fixed_dictionaries({
    "max_seqs": st.sampled_from([2, 8, 64]),
    "max_tokens": st.sampled_from([512, 4096]),
    "chunk": st.sampled_from([64, 512]),
    "guesses": st.sampled_from([0, 0, 2]),
    "caching": st.booleans(),
    "routing": st.sampled_from(P.ROUTING),
    "preemption": st.sampled_from(P.PREEMPTION),
    "admission": st.sampled_from(P.ADMISSION),
    "order": st.sampled_from(P.ORDER),
    "batching": st.sampled_from(P.BATCHING),
    "quantum": st.sampled_from([0, 50]),
    "swap_async": st.booleans(),
    "swap_group": st.sampled_from([1, 8]),
    "answers": st.sampled_from([0, 20]),
    "reserve": st.sampled_from([0.0, 0.05, 0.3]),
})  # fmt: skip


@given(
    changes=CHANGES, kind=st.sampled_from(list(synthetic.KINDS)), seed=st.integers(0, 10**6), rate=st.sampled_from([2, 20, 200]),
    prompt=st.sampled_from([50, 600]), replicas=st.integers(1, 3), prefillers=st.sampled_from([0, 0, 1, 2]),
    room=st.sampled_from([1.1, 2, 20]), clients=st.sampled_from([0, 0, 5]),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_compiled_and_plain_simulator_agree(changes, kind, seed, rate, prompt, replicas, prefillers, room, clients):
    requests = synthetic.generate(kind, {"requests": 50, "rate": rate, "output": 60, "prompt": prompt}, seed)
    knobs = P.policy("vllm", max_output=300, **changes)
    blocks = int((requests.prompt.max() + requests.output.max()) // 16 * room) + 4
    system = a_system(knobs, replicas, prefillers, blocks)
    o = M.simulate(requests, system, knobs, ttft_s=1.0, clients=clients)
    items = R.Reference(requests, system, knobs, ttft_s=1.0, each=R.invariants, clients=clients).run()
    asks, reps = o.systems.requests[0], o.systems.replicas[0]
    np.testing.assert_allclose(asks["first_at"], [a.first_at for a in items], rtol=1e-9)
    np.testing.assert_allclose(asks["done_at"], [a.done_at for a in items], rtol=1e-9)
    assert asks["preempted"].tolist() == [a.preempted for a in items]
    assert asks["hit_tokens"].tolist() == [a.hit for a in items]
    assert (reps["free_blocks"] + reps["idle_blocks"] == reps["total_blocks"]).all(), "blocks are lost"
    ended = (asks["phase"] == M.state.DONE) | (asks["phase"] == M.state.REJECTED)
    assert ended.all() and o.systems.systems[0]["unfinished"] == 0, "a request is lost"


def test_one_step_time_model():
    e = a_system(P.Knobs()).engine
    for batch, context in ((1, 10.0), (64, 2000.0)):
        assert iteration_s(e, batch, batch * context, 0.0, 0.0) == pytest.approx(decode_s(e, batch, context))


@pytest.mark.parametrize("model", ["llama3-8b", "mixtral-8x7b"])
def test_iterations_of_the_kernel_take_what_the_model_says(model):
    service = Service(model=models.load(model), nodes=clusters.load("h100:8").nodes)
    e = M.setup(service, ServePlan(engines=Part(count=1, tp=4)), P.Knobs()).engine
    assert (e.chance < 1) == (model != "llama3-8b")
    for work in ((1.0, 500.0, 0.0, 0.0), (0.0, 0.0, 512.0, 131072.0), (40.0, 9e4, 300.0, 45000.0)):
        assert kernel.iteration_s(e, *work) == pytest.approx(float(iteration_s(e, *work)), rel=1e-12)


# --- closed forms


def poisson(n, rate, prompt, output, seed=1):
    rng = np.random.default_rng(seed)
    return requests_of(
        "poisson", np.cumsum(rng.exponential(1 / rate, n)), np.broadcast_to(prompt, n), np.broadcast_to(output, n)
    )


def half_width(values, batches=40):
    """99 % confidence of a mean of dependent values, by the means of batches."""
    means = np.array([b.mean() for b in np.array_split(values, batches)])
    return 2.7 * means.std(ddof=1) / math.sqrt(batches)


def test_constant_service_agrees_with_m_d_1():
    knobs = P.policy("vllm", max_seqs=1)
    system = replace(a_system(knobs), engine=constant_steps(0.0, 1e-3))  # a prompt of 1,000 tokens takes a second
    requests = poisson(200_000, 0.7, 1000, 1)
    o = M.simulate(requests, system, knobs)
    late = o.systems.requests[0]["first_at"] - requests.arrival_s
    wanted = 1.0 + 0.7 / (2 * (1 - 0.7))
    assert abs(late.mean() - wanted) < half_width(late) + 0.005 * wanted


@pytest.mark.parametrize(("servers", "rate"), [(1, 0.7), (4, 3.2)])
def test_exponential_service_agrees_with_m_m_c(servers, rate):
    """With steps of constant time, sequences that run together are servers; outputs are geometric with mean 1,000."""
    knobs = P.policy("orca", max_seqs=servers, max_output=1)
    system = replace(a_system(knobs), engine=constant_steps(1e-3), blocks=10**6)
    n = 40_000
    requests = poisson(n, rate, 1, np.random.default_rng(2).geometric(1e-3, n))
    o = M.simulate(requests, system, knobs, most_waiting=n)
    response = o.systems.requests[0]["done_at"] - requests.arrival_s
    share = rate / servers
    tail = rate**servers / math.factorial(servers) / (1 - share)
    waits = tail / (sum(rate**k / math.factorial(k) for k in range(servers)) + tail)  # Erlang C
    wanted = 1.0 + waits / (servers - rate)
    assert abs(response.mean() - wanted) < half_width(response) + 0.01 * wanted


# --- what the policies promise


def run(policy, requests, *, replicas=1, prefillers=0, blocks=0, ttft_s=2.0, tpot_s=0.1, error=0.0, **changes):
    knobs = P.policy(policy, **changes)
    return M.metrics(
        M.simulate(
            requests, a_system(knobs, replicas, prefillers, blocks), knobs, ttft_s=ttft_s, tpot_s=tpot_s, error=error
        )
    )


def test_chunks_keep_prompts_from_stalling_others():
    requests = synthetic.generate("summary", {"requests": 1500, "rate": 3.0}, 1)
    assert run("sarathi", requests)["tpot_s"]["p99"] < 0.6 * run("vllm", requests)["tpot_s"]["p99"]


def test_shortest_first_lowers_the_mean_response_under_load():
    requests = synthetic.generate("mixed", {"requests": 3000, "rate": 30.0}, 1)
    slow, fast = run("fcfs", requests, max_seqs=32), run("sjf", requests, max_seqs=32, chunk=2048)
    assert fast["response_s"]["mean"] < 0.8 * slow["response_s"]["mean"]


def test_limits_in_view_raise_goodput_under_overload():
    requests = synthetic.generate("mixed", {"requests": 3000, "rate": 40.0}, 1)
    assert run("slo", requests, error=0.3)["good_share"] > 1.5 * run("sarathi", requests)["good_share"]


def test_fair_counters_help_light_users():
    requests = synthetic.generate("tenants", {"requests": 3000, "rate": 40.0, "user_skew": 2.0}, 1)
    assert run("vtc", requests)["fairness"] > run("sarathi", requests)["fairness"] + 0.1


def test_cheap_switches_matter_where_users_are_switched():
    requests = synthetic.generate("tenants", {"requests": 2000, "rate": 40.0, "user_skew": 2.0, "output": 600}, 1)
    kwargs = {"blocks": 12_000, "quantum": 256, "chunk": 2048}
    assert run("fair", requests, **kwargs)["ttft_s"]["p99"] < run("fair-vllm", requests, **kwargs)["ttft_s"]["p99"]


def test_looking_ahead_avoids_preemption_and_keeps_the_cache_full():
    requests = synthetic.generate("reasoning", {"requests": 600, "rate": 10.0, "output": 1000}, 1)
    kwargs = {"blocks": 8000, "max_output": 8192}
    eager = run("sarathi", requests, **kwargs)
    careful, ahead = run("conservative", requests, **kwargs), run("past-future", requests, **kwargs)
    assert careful["preemptions"] == 0 and eager["preemptions"] > 50 and ahead["preemptions"] < 10
    assert ahead["throughput_tokens_per_s"] > 2 * careful["throughput_tokens_per_s"]


def test_the_first_outputs_that_end_are_not_taken_for_all():
    """All requests come at once: the first that end are the short ones, and long ones fill the cache later."""
    requests = synthetic.generate("reasoning", {"requests": 300, "rate": 1000.0, "output": 1000}, 4)
    kwargs = {"blocks": 4000, "max_output": 8192}
    eager, ahead = run("sarathi", requests, **kwargs), run("past-future", requests, **kwargs)
    assert ahead["preemptions"] < 0.1 * eager["preemptions"]
    assert run("past-future", requests, reserve=0.2, **kwargs)["preemptions"] == 0
    assert run("past-future", requests, reserve=0.0, **kwargs)["preemptions"] > ahead["preemptions"]


def test_kept_prefixes_save_prefill_and_routing_finds_them():
    requests = synthetic.generate("prefixes", {"requests": 2000, "rate": 40.0}, 1)
    without = run("sarathi", requests, replicas=4)
    routed, spread = run("prefix", requests, replicas=4), run("prefix", requests, replicas=4, routing="round-robin")
    assert without["prefix_hit_share"] == 0 and routed["prefix_hit_share"] > 0.6
    assert routed["ttft_s"]["mean"] < 0.5 * without["ttft_s"]["mean"]
    tight = {"replicas": 4, "blocks": 4000}
    assert (
        run("dualmap", requests, **tight)["prefix_hit_share"]
        > run("prefix", requests, routing="round-robin", **tight)["prefix_hit_share"]
    )
    assert spread["prefix_hit_share"] <= routed["prefix_hit_share"] + 0.02


def test_groups_share_what_is_evicted_otherwise():
    requests = synthetic.generate("prefixes", {"requests": 800, "rate": 1000.0, "groups": 200, "group_skew": 0.2}, 1)
    kwargs = {"blocks": 3000}
    grouped, plain = run("batchllm", requests, **kwargs), run("batchllm", requests, order="fcfs", **kwargs)
    assert grouped["prefix_hit_share"] > plain["prefix_hit_share"] + 0.2
    assert grouped["throughput_tokens_per_s"] > plain["throughput_tokens_per_s"]


def test_separate_prefill_workers_keep_output_steady():
    requests = synthetic.generate("summary", {"requests": 1500, "rate": 8.0}, 1)
    split, mixed = run("vllm", requests, replicas=2, prefillers=2), run("vllm", requests, replicas=4)
    assert split["tpot_s"]["p99"] < 0.7 * mixed["tpot_s"]["p99"]


def test_guessed_tokens_shorten_the_output():
    requests = synthetic.generate("reasoning", {"requests": 200, "rate": 0.5, "output": 500}, 1)
    assert run("sarathi", requests, guesses=3)["tpot_s"]["mean"] < 0.7 * run("sarathi", requests)["tpot_s"]["mean"]


def test_kept_answers_save_work_and_short_lives_keep_them_fresh():
    requests = synthetic.generate("questions", {"requests": 3000, "rate": 10.0}, 1)
    long, short = run("sarathi", requests, answers=1000), run("sarathi", requests, answers=1000, answer_fresh_s=20.0)
    assert long["answered_share"] > 0.4 and long["stale_share"] > 2 * short["stale_share"]
    assert long["ttft_s"]["mean"] < run("sarathi", requests)["ttft_s"]["mean"]


def test_an_overloaded_system_is_called_unstable_and_ends():
    requests = synthetic.generate("chat", {"requests": 3000, "rate": 500.0, "output": 1000}, 1)
    knobs = P.policy("vllm")
    o = M.simulate(requests, a_system(knobs), knobs, ttft_s=1.0)
    stable, words = M.stability(o)
    assert not stable and "unstable" in words and "replicas" in words
    o = M.simulate(requests, a_system(knobs), knobs, most_waiting=100)
    stable, words = M.stability(o)
    assert not stable and "given up" in words
    calm = synthetic.generate("chat", {"requests": 500, "rate": 1.0}, 1)
    assert M.stability(M.simulate(calm, a_system(knobs), knobs)) == (True, "")


def test_what_never_fits_is_rejected_and_the_rest_served():
    requests = requests_of("two", [0.0, 0.1, 0.2], [100, 10_000, 100], [10, 10, 10])
    knobs = P.policy("vllm")
    o = M.simulate(requests, a_system(knobs, blocks=100), knobs)
    assert o.systems.requests[0]["phase"].tolist() == [M.state.DONE, M.state.REJECTED, M.state.DONE]


# --- traces and bad input


def test_columns_by_name_and_order_by_time(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,input_tokens,output_tokens,user\n5,100,10,b\n1,200,20,a\n5,300,30,b\n")
    found = T.read(path)
    assert found.arrival_s.tolist() == [0, 4, 4] and found.prompt.tolist() == [200, 100, 300]
    assert found.user.tolist() == [0, 1, 1] and "sorted by arrival" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arrival_s,input_tokens\n1,2\n", "no column of output tokens"),
        ("time,input_tokens,output_tokens\n1,-5,3\n", "row 1: prompt tokens must be at least 1"),
        ("time,input_tokens,output_tokens\n1,5,3\nsoon,5,3\n", "line 3"),
        ("time,input_tokens,output_tokens\n1,5,many\n", "line 2"),
        ("time,input_tokens,output_tokens\n", "no requests"),
        ('{"timestamp": 0, "input_length": 5}\n', "line 1: not a request: 'output_length' is missing"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1}\nnonsense\n', "line 2"),
        ("", "no column"),
    ],
)
def test_bad_traces_name_row_and_reason(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        T.read(path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: P.policy("sarathy"), "Did you mean 'sarathi'"),
        (lambda: P.policy("vllm", chunks=3), "Did you mean 'chunk'"),
        (lambda: P.policy("vllm", max_seqs=0), "max_seqs must be at least 1"),
        (lambda: P.policy("vllm", block=24), "must divide 512"),
        (lambda: P.settings({"caching": "perhaps"}), "caching cannot be"),
        (lambda: synthetic.generate("chat", {"rate": "fast"}, 0), "rate must be a number"),
        (lambda: synthetic.generate("chat", {"rate": 0}, 0), "rate must be above 0"),
        (lambda: synthetic.generate("chats", {}, 0), "Did you mean 'chat'"),
        (lambda: T.read(__import__("pathlib").Path("/nowhere")), "cannot read"),
        (
            lambda: M.default_plan(Service(model=models.load("llama3-405b"), nodes=clusters.load("h100:1").nodes)),
            "GB free",
        ),
    ],
)
def test_bad_settings_say_what_and_what_next(wrong, words):
    with pytest.raises((ConfigError, UnknownNameError), match=words):
        wrong()


@pytest.mark.data
def test_real_traces(data):
    azure = T.read(data / "llm/AzureLLMInferenceTrace_conv.csv.gz")
    assert len(azure) == 19_366 and azure.arrival_s[-1] > 3000 and len(azure.chunks) == 0
    kimi = T.read(data / "llm/conversation_trace.jsonl.gz")
    assert len(kimi) == 12_031 and kimi.chunk_count.max() > 100
    knobs = P.policy("prefix")
    found = M.metrics(M.simulate(kimi.first(1500), a_system(knobs, replicas=8), knobs))
    assert found["prefix_hit_share"] > 0.1


BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (BURSTGPT + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,87,0,87,API log\n118,ChatGPT,417,276,693,API log\n", "a.csv"),
        ("timestamp,request_tokens,response_tokens\n5,472,18\n45,1087,0\n118,417,276\n", "b.csv"),
        ("".join(f'{{"timestamp": {t}, "input_length": {p}, "output_length": {o}, "hash_ids": [0]}}\n'
                 for t, p, o in ((5000, 472, 18), (45000, 87, 0), (118000, 417, 276))), "c.jsonl"),
    ],
)  # fmt: skip
def test_requests_without_an_answer_are_left_out_and_counted(tmp_path, text, name):
    path = tmp_path / name
    path.write_text(text)
    requests = T.read(path)
    assert requests.arrival_s.tolist() == [0.0, 113.0]
    assert requests.prompt.tolist() == [472, 417] and requests.output.tolist() == [18, 276]
    assert requests.notes == ("left out: 1 without output tokens, which failed when the trace was taken",)


def test_a_trace_without_any_answer(tmp_path):
    path = tmp_path / "none.csv"
    path.write_text("timestamp,request_tokens,response_tokens\n5,472,0\n6,472,0\n")
    with pytest.raises(ConfigError, match="none of its 2 requests has an answer"):
        T.read(path)
