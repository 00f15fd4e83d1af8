"""The serving simulator beside the real vLLM: python benchmarks/vllm_truth.py --python ENV/bin/python --model DIR.

The engine's step times are calibrated first, on loads of their own; then the same requests are sent to the engine and
simulated, for each setting. A setting is started anew, so the whole takes a while: about half a minute a setting on a CPU.
Writes docs/results/vllm_truth.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from common import publish, table

from tunewright.envs.scheduling.serving import simulate
from tunewright.envs.scheduling.serving.synthetic import generate
from tunewright.envs.scheduling.vllm import calibrate, client, load, predict
from tunewright.envs.scheduling.vllm.target import open_target

SEQS, BUDGETS, CHUNKED = (2, 8, 32), (64, 256, 2048), ("on",)
SHARES = (0.4, 0.7, 0.95)  # of what the engine does at most with the setting's own options
REQUESTS = 40
LIMITS = {"ttft_s": 1.0, "tpot_s": 0.1}


def settings(model_len):
    for seqs, budget, chunked in itertools.product(SEQS, BUDGETS, CHUNKED):
        if chunked == "on" or budget >= model_len:
            yield {"max_num_seqs": seqs, "max_num_batched_tokens": budget, "enable_chunked_prefill": chunked}


def measured(server, requests, rate, salt):
    """The engine's metrics, and the same of the simulator by ``simulated``."""
    loaded = client.run(server, load.scaled(requests, rate), warmup=2, salt=salt)
    load.check(loaded)
    return load.metrics(loaded, **LIMITS)


def simulated(found, knobs, requests, rate):
    outcome = simulate.simulate(
        load.scaled(requests, rate), found.setup(block=knobs.block), knobs,
        ttft_s=LIMITS["ttft_s"] - found.request_s, tpot_s=LIMITS["tpot_s"],
    )  # fmt: skip
    return simulate.metrics(outcome)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--serve", default="", help="command of the engine, instead of --python")
    parser.add_argument("--settings", type=int, default=100, help="only the first so many")
    parser.add_argument("--json", type=Path, help="where the rows go, too")
    given = parser.parse_args()
    options = {
        "model": given.model,
        "rate": "1",
        "parameters": "max_num_seqs,max_num_batched_tokens,enable_chunked_prefill",
    }
    options |= {"serve": given.serve} if given.serve else {"python": given.python}
    target = open_target("", options)
    most = {**target.space.default, "max_num_seqs": max(SEQS), "max_num_batched_tokens": max(BUDGETS)}
    print("calibrating", flush=True)
    found, rows = target.run(
        most,
        lambda server: calibrate.calibrate(
            server,
            rounds=2,
            most_seqs=max(SEQS),
            most_tokens=1024,
            progress=lambda words: print("  ", words, flush=True),
        ),
    )
    print(
        f"median error of the fit {100 * found.error:.1f} %, a request costs {1e3 * found.request_s:.1f} ms", flush=True
    )
    requests = generate("chat", {"requests": REQUESTS, "prompt": 150, "output": 30, "cv": 1.0}, 1).within(1000)
    out = []
    for number, config in enumerate(list(settings(4096))[: given.settings]):
        knobs = predict.knobs_of(config, found.block)

        def both(server, number=number, config=config, knobs=knobs):
            most = load.metrics(client.run(server, requests, clients=64, warmup=2, salt=7000 + number), **LIMITS)
            rate = most["throughput_requests_per_s"]
            for share in SHARES:
                real = measured(server, requests, share * rate, 100 * number + int(10 * share))
                ours = simulated(found, knobs, requests, share * rate)
                row = {**config, "share": share, "rate": share * rate}
                for name in ("ttft_s", "tpot_s"):
                    row |= {f"{name}_real": real[name]["mean"], f"{name}_ours": ours[name]["mean"]}
                row["ttft_s_ours"] += found.request_s
                row |= {"good_real": real["goodput_requests_per_s"], "good_ours": ours["goodput_requests_per_s"]}
                row["client_cpu"] = real["client_cpu"]
                out.append(row)
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)

        target.run(config, both)
        if given.json:
            given.json.write_text(json.dumps({"rows": out, "fit": [vars(r) for r in rows]}))
    off = {
        name: [abs(r[f"{name}_ours"] / r[f"{name}_real"] - 1) for r in out if r["share"] < 0.9]
        for name in ("ttft_s", "tpot_s")
    }
    rank = [np.argsort(np.argsort([r[f"good_{who}"] for r in out])) for who in ("real", "ours")]
    summary = (
        f"Below saturation, median error of the mean TTFT {100 * np.median(off['ttft_s']):.0f} %, of the mean TPOT"
        f" {100 * np.median(off['tpot_s']):.0f} % (bar 15 %); rank correlation of goodput over {len(out)} rows"
        f" {np.corrcoef(*rank)[0, 1]:.2f} (bar 0.9). Median error of the fit of step times {100 * found.error:.1f} %."
    )
    print(summary)
    heads = (
        "sequences",
        "budget",
        "share of the most",
        "TTFT real [ms]",
        "simulated",
        "TPOT real [ms]",
        "simulated",
        "goodput real [1/s]",
        "simulated",
    )
    lines = [
        (r["max_num_seqs"], r["max_num_batched_tokens"], f"{r['share']:.2f}", *(f"{1e3 * r[k]:.0f}" for k in ("ttft_s_real", "ttft_s_ours")),
         *(f"{1e3 * r[k]:.1f}" for k in ("tpot_s_real", "tpot_s_ours")), *(f"{r[k]:.2f}" for k in ("good_real", "good_ours")))
        for r in out
    ]  # fmt: skip
    command = "python benchmarks/vllm_truth.py --python ENV/bin/python --model DIR"
    publish("vllm_truth", "The serving simulator beside vLLM", command, f"{summary}\n\n{table(heads, lines)}")


if __name__ == "__main__":
    main()
