"""The serving simulator beside measured serving plans: python benchmarks/serving_closed_loop.py.

Each row of the published table is a closed loop: so many clients, each sending its next request when it has the answer. The
simulator runs the same loop on the row's engine; rows that plan_split.py holds out and rows that constants were fitted to are shown apart. Aggregated rows only:
disaggregated ones do not say how many workers share the load.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import publish, table
from serving_fit import load

from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism import steptime as S
from tunewright.envs.parallelism.measured import spearman
from tunewright.envs.scheduling.serving import policies as P
from tunewright.envs.scheduling.serving import simulate as M
from tunewright.envs.scheduling.serving.requests import requests_of

ROUNDS = 4  # requests of each client
JITTER = 0.2  # lengths are even within this share, so that clients do not stay in step
CHUNK = 4096
STEPS = (0, 1, 2, 3, 4, 5, 6, 8)  # decode steps that a first token waits beyond the schedule: chosen on the fitted rows


def simulated(case, corrected):
    """Mean TTFT without the engine's fixed part, that part, the time of a step, and mean TPOT; all clients begin at once."""
    nodes = clusters.load(f"{case.kind}:{max(int(case.gpus), 1)}").nodes
    stack = S.stack_of(case.backend, case.kind)
    size, speed, four = S.precision_of(case.precision, case.kind)
    e = S.engine(
        S.shape_of(models.load(case.model)), nodes, stack, gpus=case.gpus, ranks=case.ranks, weight_bytes=size, speed=speed,
        cache_bytes=S.cache_bytes_of(case.precision), four=four,
    )  # fmt: skip
    if corrected:
        e = S.corrected(e, S.step_factors(case.backend, case.model, case.kind, case.precision, version=case.version))
    e = S.Engine(*(float(v) for v in e))
    clients = max(round(case.batch), 1)
    n = clients * ROUNDS
    rng = np.random.default_rng(0)

    def lengths(mean):
        return np.maximum(np.rint(mean * rng.uniform(1 - JITTER, 1 + JITTER, n)), 2)

    requests = requests_of("loop", np.zeros(n), lengths(case.isl), lengths(case.osl))
    knobs = P.policy("sarathi", chunk=max(CHUNK, clients + 512), max_seqs=min(clients, 4096))
    blocks = int(2 * (case.isl + case.osl) // 16 + 2) * (clients + 2)
    o = M.simulate(requests, M.Setup(engine=e, replicas=1, blocks=blocks), knobs, clients=clients)
    asks = o.systems.requests[0]
    step = float(S.decode_s(e, clients, case.isl + 0.5 * case.osl))
    tpot = (asks["done_at"] - asks["first_at"]) / (asks["output"] - 1)
    return float((asks["first_at"] - asks["arrival_s"]).mean()), stack.first_s, step, float(tpot.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every n-th row only")
    given = parser.parse_args()
    cases, held = load()
    chosen = [k for k, c in enumerate(cases) if c.mode == "agg" and c.osl > 1][:: given.every]
    truth = np.array([(cases[k].ttft_s, cases[k].tpot_s) for k in chosen])
    apart = held[chosen]
    rows, waits = [], {}
    for corrected in (False, True):
        raw = np.array([simulated(cases[k], corrected) for k in chosen])
        words = "with" if corrected else "without"

        def first(n, raw=raw):
            return raw[:, 0] + raw[:, 1] + n * raw[:, 2]

        waits[words] = min(STEPS, key=lambda n: np.median(np.abs(first(n) / truth[:, 0] - 1)[~apart]))
        for name, values, real in (("TPOT", raw[:, 3], truth[:, 1]), ("TTFT", first(waits[words]), truth[:, 0])):
            for part, which in (("held out", apart), ("fitted", ~apart)):
                off = np.abs(values[which] / real[which] - 1)
                rows.append((
                    name, part, words, int(which.sum()), f"{100 * np.median(off):.1f} %", f"{100 * off.mean():.1f} %",
                    f"{spearman(values[which], real[which]):.3f}", f"{np.median(values[which] / real[which]):.2f}",
                ))  # fmt: skip
                print(*rows[-1], sep=" | ", flush=True)
    body = (
        f"{len(chosen)} aggregated rows; all clients begin at once, {ROUNDS} requests of each, lengths even within"
        f" {100 * JITTER:.0f} % of the row's, iterations of up to {CHUNK} tokens. To the scheduled time of a first token come the"
        " engine's fixed part (fitted with the closed formulas) and decode steps that it waits beyond the schedule: how many was"
        f" chosen on the fitted rows ({waits['without']} without and {waits['with']} with corrections). The bars (13 % and 0.95 for"
        " TPOT, 40 % and 0.75 for TTFT, on held-out rows) are those of the closed formulas.\n\n"
        + table(
            (
                "time",
                "rows",
                "corrections of stacks",
                "number",
                "median error",
                "mean error",
                "Spearman",
                "median of simulated over measured",
            ),
            rows,
        )
    )
    publish(
        "serving_closed_loop",
        "The serving simulator beside measured plans",
        "python benchmarks/serving_closed_loop.py",
        body,
    )


if __name__ == "__main__":
    main()
