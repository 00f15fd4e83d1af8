"""One tournament over all families: python benchmarks/tournament.py [--seeds 3] [--trials 15].

The bundle is kept beside the page; `tunewright compare verify docs/results/tournament` computes every number again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import DATA, RESULTS, publish, table

import tunewright as tw
from tunewright.agents import tuning
from tunewright.comparing.bundle import load, save_tables
from tunewright.comparing.standings import ALL
from tunewright.comparing.statistics import seeds_needed
from tunewright.comparing.tournament import Watcher

TARGETS = (
    "sqlite@write-heavy@rows=10000", f"table:{DATA / 'tables' / 'moot_PostgreSQL.csv.gz'}", "lustre:ior-16m",
    "lustre:mdworkbench-8k", "trainplan:bloom", "serveplan@chat", "serving@chat", "spark@mixed", "cluster@gpu",
)  # fmt: skip
TUNERS = ("random", "tpe", "gp", "cmaes", "smac", "playbook", "hybrid")
AGENT_STEPS = 60_000


class Told(Watcher):
    def ended(self, row):
        print(row["name"], row["status"], row["reason"], f"{row['wall_s']:.1f} s", flush=True)

    def left_out(self, what, why):
        print("left out:", what, why, flush=True)


def shown(value, form="{:.0f} %", scale=100):
    return form.format(scale * value) if value == value else "–"


def optimum(row):
    """Say what scores on a target are measured against."""
    if row["best_is"] == "known":
        return "known"
    beyond = f"; {shown(row['beyond'], '{:.1f} %')}" if row["beyond"] > 0.0005 else ""
    return f"best seen ({row['found']}{beyond})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument(
        "--page", action="store_true", help="play nothing: write the page from the bundle that is there"
    )
    given = parser.parse_args()
    if given.page:
        write(RESULTS / "tournament")
        return
    tuners = [t for t in TUNERS if t != "smac" or importlib.util.find_spec("smac")]
    with tempfile.TemporaryDirectory() as folder:
        agent = Path(folder) / "lustre-agent.zip"
        tuning.run(["lustre"], steps=AGENT_STEPS, output=agent, seed=0)
        made = tw.compare(
            TARGETS, [*tuners, f"policy:{agent}"], trials=given.trials, seeds=given.seeds, directory=Path(folder) / "b",
            skip=True, watcher=Told(),
        )  # fmt: skip
        kept = RESULTS / "tournament"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(made.folder, kept, ignore=shutil.ignore_patterns("report.html"))
        text = (kept / "tournament.json").read_text(encoding="utf-8")  # without the paths of this machine
        text = text.replace(str(DATA.resolve()), "data").replace(str(DATA), "data").replace(str(agent), agent.name)
        (kept / "tournament.json").write_text(text, encoding="utf-8")
    write(kept)


def write(kept):
    """Write the page and its figures from the bundle."""
    made = load(kept)
    save_tables(made)
    needed = f"needs {seeds_needed()} seeds"
    command, trials, seeds = made.config["command"], made.config["trials"], len(made.config["seeds"])
    for name in ("scores", "critical_difference", "regret"):
        (RESULTS / f"tournament_{name}.svg").write_text(tw.plot.svg(getattr(tw.plot, name)(made)), encoding="utf-8")
    board = made.leaderboard
    rows = [
        (
            r["tuner"], r["targets"], shown(r["score"]),
            f"{shown(r['low'])} to {shown(r['high'])}" if r["low"] == r["low"] else needed, shown(r["mean_rank"], "{:.2f}", 1),
            shown(r["over_random"]), f"{r['wins']} / {r['ties']} / {r['losses']}",
            f"{shown(r['near_share'])} ({shown(r['near_low'])} to {shown(r['near_high'])})", r["failed_trials"],
            shown(r["tuner_s_per_trial"], "{:.0f} ms", 1000),
        )
        for r in board.to_dict("records")
    ]  # fmt: skip
    heads = [
        "tuner",
        "targets",
        "score",
        "95 % interval",
        "mean rank",
        "over random",
        "won / tied / lost",
        "within 5 %",
        "failed trials",
        "own time a trial",
    ]
    results = made.tables["results"]
    score = results.pivot(index="target", columns="tuner", values="score")
    names = list(board["tuner"])
    by_target = [
        (t["target"], shown(t["room"]), optimum(t), *(shown(score.loc[t["target"], n]) for n in names), t["says"])
        for t in made.tables["targets"].to_dict("records")
    ]
    regret = made.tables["regret"]
    gaps = regret[regret["target"] == ALL].pivot(index="tuner", columns="trial", values="gap")
    stated = [(n, *(shown(v) for v in gaps.loc[n])) for n in names if n in gaps.index]
    body = (
        f"{made.verdict}\n\n{table(heads, rows)}\n\n![scores](tournament_scores.svg)\n\n"
        "Tuners under one bar are not told apart:\n\n![critical difference](tournament_critical_difference.svg)\n\n"
        "What of the way to the best is still to go after so many trials, the mean over targets, the median over seeds:\n\n"
        f"{table(['tuner', *map(str, gaps.columns)], stated)}\n\n"
        "Median score on each target; room is the distance of the best from the default. Where the optimum is not known, the"
        " best is the best that any game found; in brackets how many games found it, and how much further the optimum may lie,"
        " as a share of the room. p-values are corrected after Holm for the number of targets:\n\n"
        f"{table(['target', 'room', 'best', *names, 'what can be said'], by_target)}\n\n![regret](tournament_regret.svg)\n\n"
        f"{trials} trials a game, {seeds} seeds, trust fast, every winner measured afresh. SQLite is real, all others are"
        " simulated or a replayed table. The agent was trained on drawn Lustre clusters and workloads, and fits no other target."
        " `lustre` is a model whose rules of thumb the playbook's authors know: read its lead there with that in mind.\n\n"
        "The bundle is in `docs/results/tournament`; `tunewright compare verify docs/results/tournament` computes every number"
        f" again. Its command:\n\n```text\n{command}\n```"
    )  # fmt: skip
    publish("tournament", "One tournament over all families", "python benchmarks/tournament.py", body)


if __name__ == "__main__":
    main()
