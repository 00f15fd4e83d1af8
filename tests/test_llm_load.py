"""The load on an OpenAI-compatible server: streams, honest times, faults, capacity."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiohttp", reason="needs the extra 'serving'")
from llm_server import Told

from tunewright.cli.app import main
from tunewright.envs.scheduling.serving.requests import requests_of
from tunewright.envs.scheduling.serving.synthetic import generate
from tunewright.envs.scheduling.vllm import client, load, prompts
from tunewright.envs.scheduling.vllm.events import Answer, Events, StreamError
from tunewright.errors import TargetError


def asked(arrivals, output=4, prompt=5):
    count = len(arrivals)
    return requests_of("these", arrivals, [prompt] * count, [output] * count)


# -- streams ------------------------------------------------------------------------------------------


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1), max_size=8),
    st.lists(st.integers(1, 7), max_size=60),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_are_the_same_however_the_bytes_are_cut(texts, cuts, end):
    whole = "".join(f": a comment{end}id: 7{end}data: {t}{end}{end}" for t in texts).encode()
    events, got, at = Events(), [], 0
    for size in cuts:
        got += events.feed(whole[at : at + size])
        at += size
    got += events.feed(whole[at:])
    assert got == [t.encode() for t in texts]


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[1]", b"7", b'{"a": 1}', b'{"choices": [7]}', b"[" * 3000])
def test_what_is_no_completion_is_said_to_be_none(data):
    with pytest.raises(StreamError):
        Answer().take(data, 0.0)


def test_an_event_without_an_end_is_refused():
    events = Events()
    with pytest.raises(StreamError, match="more than"):
        for _ in range(300):
            list(events.feed(b"data: " + b"x" * 5000))


# -- prompts ------------------------------------------------------------------------------------------


def test_prompts_have_their_lengths_and_share_what_they_share():
    requests = generate("prefixes", {"requests": 30, "groups": 3, "prefix": 1024, "prompt": 60}, 1)
    made = prompts.tokens(requests, 500, salt=1)
    assert [len(p) for p in made] == requests.prompt.tolist()
    assert all(10 <= token < 500 for p in made for token in p)
    heads = {tuple(p[:1024]) for p in made}
    assert len(heads) == len(set(map(tuple, np.split(requests.chunks, len(requests)))))
    assert prompts.tokens(requests, 500, salt=2)[0][:20] != made[0][:20]
    assert len(prompts.text(made[0]).split()) == len(made[0])


# -- times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_times_are_those_of_the_server(api):
    with Told(first_s=0.1, each_s=0.03) as server:
        loaded = client.run(client.Server(url=server.url + "/v1/", api=api, key="k"), asked([0.0, 0.05, 0.1]), warmup=1)
    metrics = load.metrics(loaded, ttft_s=0.5, tpot_s=0.2)
    assert 0.1 <= metrics["ttft_s"]["p50"] < 0.4
    assert 0.03 <= metrics["tpot_s"]["p50"] < 0.1
    assert metrics["requests"] == 3 and metrics["failed"] == 0 and metrics["good_share"] == 1.0
    assert [s.answer.tokens for s in loaded.sent] == [4, 4, 4]
    assert {key for key, _ in server.asked} == {"Bearer k"}
    assert len(server.asked) == 4  # with the one that warms up
    assert server.asked[0][1]["max_tokens"] == 4 and server.asked[0][1]["model"] == "told"


def test_a_queue_counts_from_when_requests_were_due():
    """One at a time, 0.1 s each, all due at once: the last waits for the others (no coordinated omission)."""
    with Told(first_s=0.1, each_s=0.0, slots=1) as server:
        loaded = client.run(client.Server(url=server.url), asked([0.0] * 5, output=1))
    ttft = np.sort(client.times(loaded)["ttft_s"])
    assert np.all(ttft >= 0.1 * np.arange(1, 6) - 0.005)


def test_clients_of_a_closed_loop_wait_for_their_answers():
    with Told(first_s=0.05, each_s=0.0) as server:
        loaded = client.run(client.Server(url=server.url), asked([0.0] * 6, output=1), clients=2)
    assert loaded.seconds >= 0.15
    due = sorted(s.due_s for s in loaded.sent)
    assert due[2] >= 0.045 and due[4] >= 0.095


# -- faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("429", "HTTP 429: slow down"),
        ("503", "HTTP 503: slow down"),
        ("garbage", "no JSON"),
        ("stop", "the connection failed|without saying so"),
        ("error", "out of memory"),
        ("silent", "no answer within 0.5 s"),
        ("empty", "without a token"),
    ],
)
def test_what_fails_is_counted_and_told(fault, words):
    with Told(fault=fault, faulty=[1]) as server:
        loaded = client.run(client.Server(url=server.url, timeout_s=0.5), asked([0.0, 0.02, 0.04]))
    assert [bool(s.error) for s in loaded.sent] == [False, True, False]
    with pytest.raises(TargetError, match=f"1 of 3 requests failed: .*({words})"):
        load.check(loaded)
    assert load.metrics(loaded, ttft_s=1, tpot_s=1)["failed"] == 1


def test_no_server():
    with pytest.raises(TargetError, match="no server answers at http://127.0.0.1:9"):
        client.run(client.Server(url="http://127.0.0.1:9"), asked([0.0]))


# -- capacity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.3, 3.0, 17.0])
def test_capacity_is_found_to_five_per_cent(true):
    rng = np.random.default_rng(3)
    tried = []

    def good(rate):
        return float(np.clip(1.0 - 0.5 * max(rate / true - 0.9, 0) + rng.normal(0, 0.002), 0, 1))

    found, probes = load.capacity(good, start=5.0, share=0.95, least=0.01, progress=tried.append)
    assert found == pytest.approx(true, rel=0.08)
    assert tried == probes


def test_no_rate_is_kept():
    found, _ = load.capacity(lambda rate: 0.0, start=5.0, share=0.9, least=0.1, progress=lambda p: None)
    assert found == 0.0


# -- the command --------------------------------------------------------------------------------------


def test_the_command(capsys, tmp_path):
    with Told(first_s=0.005, each_s=0.001) as server:
        words = [
            "load",
            server.url,
            "-n",
            "20",
            "--rate",
            "100",
            "--shrink",
            "50",
            "--save",
            str(tmp_path / "rows.csv"),
        ]
        assert main([*words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert main(words) == 0
    assert document["metrics"]["requests"] == 20
    assert document["metrics"]["throughput_tokens_per_s"] > 0
    assert "TTFT" in capsys.readouterr().out
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 21


def test_the_command_searches_the_capacity(capsys):
    with Told(first_s=0.02, each_s=0.0, slots=1) as server:
        words = ["load", server.url, "-n", "30", "-O", "output=1", "-O", "output_cv=0", "-O", "prompt=10"]
        assert main([*words, "--capacity", "--ttft", "0.2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert 10 < document["capacity_requests_per_s"] < 120  # one every 20 ms, as long as its queue is short


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["127.0.0.1:8000"], "no address of a server"),
        (["http://127.0.0.1:9"], "no server answers"),
        (["http://127.0.0.1:9", "--capacity", "--closed", "3"], "does not have"),
        (["http://127.0.0.1:9", "--api", "grpc"], "completions or chat"),
        (["http://127.0.0.1:9", "--trace", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_wrong_input_of_the_command(words, said, capsys):
    assert main(["load", *words]) != 0
    text = capsys.readouterr().err
    assert said in text and "Traceback" not in text
