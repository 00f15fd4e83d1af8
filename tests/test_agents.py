"""Analyst, extractor, reflector, and a model in the hybrid's seat; and that no text they read is obeyed."""

import json
import re

import pandas as pd
import pytest
from endpoint import call, proposal

from tunewright.agents.llm.analyst import analyse
from tunewright.agents.llm.client import Ledger, open_model
from tunewright.agents.llm.extractor import Extractor, describe, read_claims
from tunewright.agents.llm.reflector import reflect
from tunewright.agents.llm.seat import Seat
from tunewright.envs.storage.lustre.target import LustreModel
from tunewright.errors import TunerError
from tunewright.knowledge.evidence import Observations
from tunewright.knowledge.parameters import texts_of, to_space
from tunewright.knowledge.reading import read_prose
from tunewright.knowledge.rules import Evidence, Rule
from tunewright.knowledge.sections import Section, chunks
from tunewright.space import Space
from tunewright.space.parameters import Int
from tunewright.target import BaseTarget, Measurement, Metric
from tunewright.testing import Sphere, run_tuner
from tunewright.tuner import History, Problem, Trial
from tunewright.tuners.hybrid import HybridTuner, suspects

SECTION = Section(
    path=("Tuning", "The writer"), source="manual.md:12", term="",
    text="The writer holds data back. Raising writer_buffer_kb lets larger pieces be written; it is 512 KiB unless set otherwise. "
    "At most a quarter of the client's memory may be used. A change needs a restart of the writer. The value 0 means no buffer.",
)  # fmt: skip
FULL = {
    "definition": {"value": "data held back by the writer", "quote": "The writer holds data back.", "source": "manual.md:12"},
    "type": {"value": "integer", "quote": "it is 512 KiB unless set otherwise", "source": "manual.md:12"},
    "unit": {"value": "KiB", "quote": "it is 512 KiB unless set otherwise", "source": "manual.md:12"},
    "default": {"value": 512, "quote": "it is 512 KiB unless set otherwise", "source": "manual.md:12"},
    "range": {"value": {"low": 1, "high": "CLIENT_RAM_KB / 4"}, "quote": "At most a quarter of the client's memory may be used.", "source": "manual.md:12"},
    "special": {"value": {"0": "no buffer"}, "quote": "The value 0 means no buffer.", "source": "manual.md:12"},
    "restart": {"value": "restart", "quote": "A change needs a restart of the writer.", "source": "manual.md:12"},
    "tunable": True, "importance": 0.8, "reason": "sizes of writes",
}  # fmt: skip


def model(server):
    return open_model("m", server.url, timeout_s=2, retries=1)


# -- extractor ------------------------------------------------------------------------------------


def test_prose_becomes_a_parameter_with_quotes(endpoint):
    server = endpoint(call("describe", FULL))
    docs, dropped = read_prose([], [SECTION], Extractor(model(server), Ledger()), ["writer_buffer_kb"])
    assert not dropped and docs[0].default == 512 and docs[0].range.high == "CLIENT_RAM_KB / 4"
    assert {e.field for e in docs[0].evidence} == {
        "definition",
        "type",
        "unit",
        "default",
        "range",
        "special",
        "restart",
    }
    space, _ = to_space(docs, {"CLIENT_RAM_KB": 4096})
    param = space.params["writer_buffer_kb"]
    assert (param.bounds(space.scope({})), param.restart, dict(param.special)) == (
        (1, 1024),
        "restart",
        {0: "no buffer"},
    )
    assert "The writer holds data back" in json.dumps(server.asked[0]) and "<data>" in json.dumps(server.asked[0])


def test_a_claim_without_its_quote_goes_back_once_and_is_dropped(endpoint):
    invented = {**FULL, "default": {"value": 999, "quote": "the default is 999", "source": "manual.md:12"}}
    server = endpoint(call("describe", invented), call("describe", FULL))
    doc, dropped = describe(model(server), Ledger(), "writer_buffer_kb", chunks([SECTION]), texts_of([SECTION]))
    assert doc.default == 512 and not dropped
    said = next(m["content"] for m in server.asked[1]["messages"] if m["role"] == "tool")
    assert "does not say 'the default is 999'" in said
    server = endpoint(call("describe", invented), call("describe", invented))
    doc, dropped = describe(model(server), Ledger(), "writer_buffer_kb", chunks([SECTION]), texts_of([SECTION]))
    assert doc.default is None and doc.unit == "KiB" and "999" in dropped[0]


def test_what_was_read_is_kept_when_the_model_is_gone(endpoint):
    server = endpoint(call("describe", FULL), 401)
    docs, dropped = read_prose([], [SECTION], Extractor(model(server), Ledger()), ["writer_buffer_kb", "writer_data"])
    assert [d.name for d in docs] == [
        "writer_buffer_kb"
    ] and "ended before writer_data: the endpoint does not accept the key" in dropped[0]
    with pytest.raises(TunerError, match="does not accept the key"):
        read_prose([], [SECTION], Extractor(model(endpoint(401)), Ledger()), ["writer_buffer_kb"])


def test_what_is_not_worth_tuning_is_left_out(endpoint):
    server = endpoint(call("describe", {**FULL, "tunable": False, "reason": "a switch"}))
    docs, dropped = read_prose([], [SECTION], Extractor(model(server), Ledger()), ["writer_buffer_kb"])
    assert not docs and "not worth tuning: a switch" in dropped[0]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("type", "banana", "type must be one of"), ("restart", "maybe", "restart must be"), ("default", [1], "one value"),
        ("special", 3, "map values"), ("range", {"low": [1]}, "range must have"), ("range", 7, "range must have"),
        ("range", {"options": [[1]]}, "list of values"),
    ],
)  # fmt: skip
def test_claims_of_the_wrong_form_are_told(field, value, why):
    doc, wrong = read_claims("p", {field: {"value": value, "quote": "q", "source": "s"}})
    assert why in wrong[0] and not doc.evidence
    assert "must be an object" in read_claims("p", {field: value})[1][0]


def test_the_read_command_with_a_model(cli, endpoint, tmp_path):
    page = tmp_path / "manual.md"
    page.write_text(f"# Tuning\n\n## The writer\n\n{SECTION.text}\n")

    def answer(request):
        source = re.search(r"\[(manual\.md:\d+)\]", request["messages"][-1]["content"])[1]
        return call("describe", {k: {**v, "source": source} if isinstance(v, dict) else v for k, v in FULL.items()})

    server = endpoint(answer)
    words = ("read", str(page), "--model", "m", "--base-url", server.url, "--names", "writer_buffer_kb", "--json")
    made = json.loads(cli(*words, "-o", str(tmp_path / "p.json")).stdout)
    found = next(p for p in made["parameters"] if p["name"] == "writer_buffer_kb")
    assert found["default"] == 512 and found["evidence"] and made["spent"]["calls"] == 1


# -- analyst --------------------------------------------------------------------------------------


def observations():
    table = pd.DataFrame({"rank": [0, 1], "bytes": [10, 990]})
    return Observations(source="x", kind="darshan", tables={"posix": table}, facts=("imbalanced ranks",), features={"bytes": 1000.0}, units={"bytes": "B"})  # fmt: skip


def test_the_analyst_looks_at_tables_and_reports(endpoint):
    report = {
        "findings": [{"finding": "rank 1 moves nearly everything", "numbers": "990 of 1,000 B"}],
        "unknown": "times",
    }
    server = endpoint(call("ask_sql", {"sql": "SELECT max(bytes) FROM posix"}), call("report", report))
    said = analyse(model(server), Ledger(), observations(), "who moves the data?")
    assert said == "- rank 1 moves nearly everything (990 of 1,000 B)\n- not shown: times"
    assert "990" in server.asked[1]["messages"][-1]["content"] and "who moves the data?" in json.dumps(server.asked[0])


def test_a_useless_report_goes_back_once(endpoint):
    good = {"findings": [{"finding": "f", "numbers": "1"}]}
    assert (
        analyse(
            model(endpoint(call("report", {"findings": "all fine"}), call("report", good))), Ledger(), observations()
        )
        == "- f (1)"
    )
    with pytest.raises(TunerError, match="no answer as analyst"):
        analyse(model(endpoint(*[{"content": "hm"}] * 9)), Ledger(), observations())


def test_the_seat_has_the_trace_analysed_once(endpoint, tmp_path):
    log = tmp_path / "strace.txt"
    log.write_text(
        "% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n"
        " 90.00    0.900000          90     10000           pread64\n 10.00    0.100000          10     10000           write\n"
        "------ ----------- ----------- --------- --------- ----------------\n100.00    1.000000                 20000           total\n"
    )
    server = endpoint(
        call("report", {"findings": [{"finding": "mostly reads", "numbers": "90 %"}]}),
        proposal(stripe_count=2),
        proposal(stripe_count=3),
    )
    seat = Seat(problem(model="m", base_url=server.url, trace=str(log), log=str(tmp_path / "c.jsonl")))
    assert (
        seat.next_answer(History()).config["stripe_count"] == 2
        and seat.next_answer(History()).config["stripe_count"] == 3
    )
    assert "mostly reads (90 %)" in json.dumps(server.asked[1])
    assert [json.loads(line)["role"] for line in (tmp_path / "c.jsonl").read_text().splitlines()] == [
        "analyst",
        "tuner",
        "tuner",
    ]
    notes = seat.notes()
    assert notes["spent"]["calls"] == 3 and "mostly reads" in notes["analysis"] and len(notes["answers"]) == 2
    replay = Seat(problem(replay=str(tmp_path / "c.jsonl"), log=str(tmp_path / "d.jsonl")))
    with pytest.raises(TunerError, match="goes on with the analyst, not the tuner; give the same manuals"):
        replay.next_answer(History())


# -- reflector ------------------------------------------------------------------------------------


def claim(parameter="rpcs"):
    proof = Evidence(session="a", better=2, worse=1, effect=2.0, noise=0.05)
    return Rule(system="sim", parameter=parameter, value=64, instead_of=8, context=frozenset({"large", "writes"}), evidence=(proof,))  # fmt: skip


def test_the_reflector_words_rules_and_may_widen_their_context(endpoint):
    one, two = claim(), claim("pages")
    words = {
        "rules": [{"id": one.id, "words": "More requests in flight hide the round trip.", "features": ["large"]}],
        "left_out": [{"id": two.id, "why": "an accident"}],
    }
    kept, said = reflect(model(endpoint(call("keep", words))), Ledger(), [one, two], ["ior-16m"])
    assert [(r.words, r.context, r.evidence) for r in kept] == [
        ("More requests in flight hide the round trip.", frozenset({"large"}), one.evidence)
    ]
    assert "left out by the model: an accident" in said[0]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"words": "On ior-16m raise it.", "features": ["large"]}, "must not name ior-16m"), ({"words": "w", "features": ["random"]}, "must be some of"),
        ({"words": "", "features": ["large"]}, "one sentence"), ({"words": "w", "features": []}, "must be some of"),
    ],
)  # fmt: skip
def test_what_a_rule_may_not_say_goes_back_once(endpoint, entry, why):
    bad = call("keep", {"rules": [{"id": claim().id, **entry}]})
    good = call("keep", {"rules": [{"id": claim().id, "words": "fine", "features": ["large"]}]})
    server = endpoint(bad, good)
    kept, said = reflect(model(server), Ledger(), [claim()], ["ior-16m"])
    assert kept[0].words == "fine" and not said
    assert why in next(m["content"] for m in server.asked[1]["messages"] if m["role"] == "tool")
    kept, said = reflect(model(endpoint(bad, bad)), Ledger(), [claim()], ["ior-16m"])
    assert kept == [claim()] and why in said[0], "what is computed stays, without the model's words"


# -- hybrid ---------------------------------------------------------------------------------------


def problem(**options):
    target = LustreModel()
    return Problem(
        space=target.space, metrics=target.metrics, objectives=["seconds"], workload="ior-16m", target="lustre",
        about=target.workloads["ior-16m"], options=options, facts=target.facts,
    )  # fmt: skip


def test_a_model_takes_vetoes_and_replaces_the_optimisers_suggestions(endpoint, tmp_path):
    server = endpoint(
        call("take", {"number": 1, "reason": "sensible"}), call("take", {"number": 1, "reason": "far away"}),
        call("take", {"number": 9}), call("take", {"number": 2, "reason": "the first repeats a failure"}), proposal(x0=0.25),
    )  # fmt: skip
    options = {"model": "m", "base_url": server.url, "log": str(tmp_path / "l.jsonl"), "timeout": "5"}
    trials = run_tuner(HybridTuner, Sphere(2), trials=5, options=options)
    assert "took suggestion 1 of 1" in trials[1].why and "sensible" in trials[1].why
    assert "took suggestion 2 of" in trials[-2].why and trials[-1].config["x0"] == 0.25 and "replaced" in trials[-1].why
    shown = json.dumps(server.asked[-1])
    assert (
        "give or take" in shown
        and "1. {" in shown
        and "stop" not in [t["function"]["name"] for t in server.asked[-1]["tools"]]
    )
    again = run_tuner(
        HybridTuner,
        Sphere(2),
        trials=5,
        options={"replay": str(tmp_path / "l.jsonl"), "log": str(tmp_path / "m.jsonl")},
    )
    assert [t.config for t in again] == [t.config for t in trials]


def trial(number, status="ok", **config):
    return Trial(number=number, config={"a": 1, "b": 1, "c": "x", **config}, status=status)


def test_what_repeats_all_that_may_have_failed_is_suspect():
    default = {"a": 1, "b": 1, "c": "x"}
    known = [trial(0), trial(1, "failed", a=50, b=9), trial(2, b=20)]
    assert suspects(known, {"a": 60, "b": 1, "c": "x"}, default) == ["a"], "b went further and worked"
    assert not suspects(known, {"a": 40, "b": 9, "c": "x"}, default)
    assert suspects([trial(0), trial(1, "failed", c="y")], {"a": 1, "b": 1, "c": "y"}, default) == ["c"]
    assert not suspects([trial(0), trial(1, "failed")], default, default), "the default cannot be blamed"


class Cliff(BaseTarget):
    """Gets better towards where it fails."""

    name, isolated, parallel_safe, exact = "cliff", False, True, True
    metrics = (Metric(name="loss", direction="min"),)

    def __init__(self):
        self.space = Space(
            [Int(name="big", low=1, high=100, default=10), Int(name="other", low=1, high=100, default=10)]
        )

    def measure(self, config, *, workload, seed, budget):
        if config["big"] > 60:
            return Measurement(status="failed", reason="too big")
        return Measurement(values={"loss": 200.0 - config["big"] - 0.1 * config["other"]})


def test_hybrid_does_not_repeat_a_failure():
    trials = run_tuner(HybridTuner, Cliff(), trials=14)
    failed = [t for t in trials if not t.ok]
    assert len(failed) <= 4, "each failure bounds the next one"
    assert min(t.scores["loss"] for t in trials if t.ok) < 145


def test_amounts_of_two_sources_are_brought_to_one_unit(endpoint):
    from tunewright.knowledge.extract import merged
    from tunewright.knowledge.parameters import ParameterDoc, Range

    known = ParameterDoc(name="p", unit="B", type="integer")
    said = ParameterDoc(name="p", unit="kB", default=4, range=Range(low=1, high="RAM_KB / 2"))
    made = merged([known], [said])[0]
    assert (made.unit, made.default, made.range.low, made.range.high) == ("B", 4096, 1024, "(RAM_KB / 2) * 1024")
    other = merged([known], [ParameterDoc(name="p", unit="ms", default=4)])[0]
    assert other.default is None and other.unit == "B"


def test_a_range_may_name_another_parameter():
    from tunewright.knowledge.parameters import ParameterDoc, Range

    docs = [
        ParameterDoc(name="mods", type="integer", default=7, range=Range(low=1, high="rpcs - 1")),
        ParameterDoc(name="rpcs", type="integer", default=8, range=Range(low=2, high=256)),
        ParameterDoc(name="lost", type="integer", default=1, range=Range(low=1, high="NO_SUCH_FACT")),
        ParameterDoc(name="next", type="integer", default=1, range=Range(low=1, high="lost")),
    ]
    space, left_out = to_space(docs)
    assert list(space.params) == ["mods", "rpcs"] and set(left_out) == {"lost", "next"}


def test_embeddings_of_an_endpoint_search_by_meaning(cli, endpoint, tmp_path):
    """A question that shares no word with the passage; the scripted embeddings know that both are about cats."""
    page = tmp_path / "m.md"
    page.write_text("# Animals\n\n## Felines\n\nThe tom sleeps on the sofa.\n\n## Dogs\n\nThe hound barks at night.\n")

    def answer(request):
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        vectors = [[1.0, 0.0] if re.search("tom|kitten", t) else [0.0, 1.0] for t in texts]
        data = [{"object": "embedding", "index": k, "embedding": v} for k, v in enumerate(vectors)]
        return json.dumps(
            {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        )

    server = endpoint(answer)
    words = ("read", str(page), "--ask", "kitten", "--embeddings", "e", "--base-url", server.url, "--json")
    assert "tom sleeps" in json.loads(cli(*words).stdout)["passages"][0]["text"]
    seat = Seat(problem(model="m", base_url=server.url, manual=str(page), embeddings="e"))
    assert "tom sleeps" in seat.manual.search("kitten", 1)[0].text
