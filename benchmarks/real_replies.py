"""Sessions in which a reader sat in the model's seat: python benchmarks/real_replies.py.

The replies were written by an operator behind an OpenAI-compatible endpoint on loopback, from what the agent shows and
nothing else; the sessions are kept in real_replies/. Those on the Lustre model are replayed in the tests. Another is
added with ``--keep EXPORT LOG``: what ``tunewright export`` wrote of it, and its log.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from attempts import first_within
from common import publish, table
from lustre import best_known

from tunewright.envs.storage.lustre.target import LustreModel
from tunewright.target import Budget

SEATS = ("outline", "code")
WORDS = """Real replies: a language model in the seat, through the agent's own conversation, seed 1. Seat "code": the reader
had worked on this project and had the targets' code before it, so these rows show that the conversation works, not how
well a model tunes what it has not seen. Seat "outline": a fresh context of the same model, which held an outline of the
project and results of other tuners, none of the targets' code and no good configuration. Nobody without any part in the project was at hand.
How playbook, hybrid, TPE and GP do on the same targets: [Lustre](attempts_lustre.md), [tables](tables.md),
[real systems](attempts_real.md). Tokens are counted by the endpoint, four characters each. A number of attempts to
within 5 % of the best known is given where that is known; of tables, 5 % of the way from the best to the median.

"""
AFTER = """

Stages with real replies: tuner (all rows), analyst (`ior-16m`: one question in SQL, five findings, one statement of what the
trace cannot show), the model beside the optimiser (rows with `hybrid`: it replaced seven suggestions, took the others), the
reflector (the rule on stripe counts from `ior-16m`, of which it dropped three features), and the extractor (four parameters of
Lustre's manual: five calls, one invented default was returned by the check of quotes and left out then). The repair is an
empty proposal.

What was mended by what went wrong: the table's best value stood among the facts that the tuner is shown; the parameters
were listed twice, as a JSON schema; reasons of values that were kept said only "kept"; the manual's sentence on a
parameter was that of another one of the same name; two sources in different units had been mixed; a folder with a
session's name was taken for a folder of rules.
"""
KEPT = Path(__file__).with_name("real_replies")
# best and median of the tables
KNOWN = {
    "moot_LLVM.csv.gz": (199.6833, 236.9217),
    "moot_PostgreSQL.csv.gz": (47200.4, 49786.1),
    "moot_storm_wc-6d-c1-obj1.csv.gz": (72.75, 8988.0),
}


def kept(export, log):
    """What the table needs of a session."""
    session = json.loads(Path(export).read_text(encoding="utf-8"))
    name = session["objectives"][0]
    shown, notes, plan = session["verdict"]["comparisons"][name], session["notes"], session["plan"]
    said = Path(log).read_text(encoding="utf-8")
    trials = [t for t in session["trials"] if t["status"] == "ok" and "to see what it gives" not in t["why"]]
    return {
        "target": plan["target"].split("/")[-1], "workload": plan["workload"], "seed": plan["seed"], "tuner": plan["tuner"],
        "trace": "trace" in plan["tuner_options"], "objective": name, "improved": session["verdict"]["improved"],
        "verified": [shown[k] for k in ("value", "low", "high")],
        "trials": [{"config": t["config"], "ratio": t["ratio"], "value": t["scores"][name]} for t in trials],
        "rejected": sum(t["status"] == "rejected" for t in session["trials"]),
        "spent": {k: notes["spent"][k] for k in ("calls", "tokens_in", "tokens_out")},
        "looked_up": len(re.findall(r'"name": "look_up_manual", "args"', said)),
        "repaired": said.count("not accepted, propose again"), "stopped": session.get("ended") or "",
    }  # fmt: skip


def first_near(session):
    """First attempt within 5 % of the best known, where that is known."""
    if session["target"] == "lustre":
        clean = LustreModel(noise=0.0)
        values = [
            clean.measure(t["config"], workload=session["workload"], seed=0, budget=Budget(workdir=Path("."))).values[
                "seconds"
            ]
            for t in session["trials"]
        ]
        default, best, _ = best_known(session["workload"])
        return first_within(values, best, 0.05), f"{default / best:.2f}"
    if session["target"] in KNOWN:
        best, median = KNOWN[session["target"]]
        goal, default = best + 0.05 * (median - best), session["trials"][0]["value"]
        first = next((k for k, t in enumerate(session["trials"]) if t["value"] <= goal), None)
        return first, f"{default / best:.3g}"
    return None, "see attempts_real.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", nargs=2, metavar=("EXPORT", "LOG"), help="add a session")
    parser.add_argument("--seat", default="outline", choices=SEATS, help="what the reader knew of it")
    options = parser.parse_args()
    if options.keep:
        session = {"seat": options.seat, **kept(*options.keep)}
        path = KEPT / f"{Path(options.keep[1]).stem}.json"
        path.write_text(json.dumps(session, indent=1) + "\n", encoding="utf-8")
        print(f"kept as {path.name}")
        return
    rows = []
    for path in sorted(KEPT.glob("*.json")):
        session = json.loads(path.read_text(encoding="utf-8"))
        near, best = first_near(session)
        value, low, high = session["verified"]
        shown = f"{value:.3g}" if low == high else f"{value:.2f} ({low:.2f} to {high:.2f})"
        spent = session["spent"]
        rows.append([
            session["target"].removeprefix("table:"), session["workload"], session["tuner"] + (", trace" if session.get("trace") else ""),
            session["seat"], len(session["trials"]) - 1, shown if session["improved"] else "none shown", best,
            near if near is not None else "-", session["looked_up"], session["repaired"], session["rejected"],
            f"{spent['tokens_in']:,.0f} / {spent['tokens_out']:,.0f}",
        ])  # fmt: skip
    heads = [
        "target", "workload", "tuner", "seat", "attempts", "verified ratio", "best known", "first attempt within 5 %",
        "look-ups in the manual", "repairs", "refused", "tokens in / out",
    ]  # fmt: skip
    rows.sort(key=lambda r: (SEATS.index(r[3]), r[0], r[1]))
    publish(
        "real_replies",
        "Sessions with real replies",
        "python benchmarks/real_replies.py",
        WORDS + table(heads, rows) + AFTER,
    )


if __name__ == "__main__":
    main()
