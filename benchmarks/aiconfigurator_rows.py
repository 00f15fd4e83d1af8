"""aiconfigurator beside the step-time model on the same held-out rows: python benchmarks/aiconfigurator_rows.py [--rows 200].

Needs ``pip install aiconfigurator`` (0.9 GB); it wants packages of its own, so an environment of its own is best, and
PYTHON_AIC may name that environment's Python. Aggregated rows whose degrees say what they mean, drawn by a hash.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import subprocess
import sys

COLUMNS = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "batch_size", "isl", "osl")


def predict() -> None:
    """Read rows as JSON, write predictions as JSON; the only part that runs in aiconfigurator's environment."""
    logging.disable(logging.CRITICAL)
    from aiconfigurator.cli.api import cli_estimate

    out = []
    for row in json.load(sys.stdin):
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                given = {c: int(float(row[c])) for c in COLUMNS if row.get(c)}
                for c in ("attention_dp_size", "moe_tp_size", "moe_ep_size"):
                    given[c] = max(given.get(c, 1), 1)
                given |= {c: row[c] for c in ("gemm_quant_mode", "moe_quant_mode") if row.get(c)}
                found = cli_estimate(row["model_path"], row["system"], mode="agg", backend_name=row["backend"], **given)
            out.append([found.ttft, found.tpot, ""])
        except Exception as error:  # whatever it is: the row is counted as one it does not predict
            out.append([None, None, f"{type(error).__name__}: {error}"[:120]])
    json.dump(out, sys.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--predict", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.predict:
        predict()
        return
    import numpy as np
    from common import DATA, publish, table
    from plan_split import digit, serving_held_out

    from tunewright.envs.parallelism.check import predict_served
    from tunewright.envs.parallelism.measured import read, spearman
    from tunewright.envs.parallelism.serving_cases import served

    _, rows = read(DATA / "parallelism" / "serving_silicon_fit.csv.gz")
    plain = []
    for row in rows:
        c = row.cells
        sizes = [max(row.value(n, 1), 1) for n in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")]
        if c["mode"] == "agg" and serving_held_out(c["id"]) and sizes[0] * sizes[1] == sizes[2] * sizes[3] <= 8:
            plain.append(row)
    plain.sort(key=lambda r: (digit(r.cells["id"]), r.cells["id"]))
    plain = plain[: options.rows]
    python = os.environ.get("PYTHON_AIC", sys.executable)
    text = subprocess.run(
        [python, __file__, "--predict"],
        input=json.dumps([dict(r.cells) for r in plain]),
        capture_output=True,
        text=True,
    )
    if text.returncode:
        sys.exit(f"aiconfigurator did not run: {text.stderr.strip().splitlines()[-1:]}")
    theirs = json.loads(text.stdout)
    ours = [predict_served(served(r)) for r in plain]
    both = [k for k, t in enumerate(theirs) if t[1]]
    lines = []
    for what, column, at in (("TTFT", "silicon_ttft_ms", 0), ("TPOT", "silicon_tpot_ms", 1)):
        measured = np.array([plain[k].value(column) for k in both])
        for name, got in (
            ("aiconfigurator", np.array([theirs[k][at] for k in both])),
            ("tunewright", np.array([ours[k][at] * 1e3 for k in both])),
        ):
            off = np.abs(got / measured - 1)
            shown = [f"{100 * np.median(off):.1f} %", f"{100 * off.mean():.1f} %", f"{spearman(measured, got):.3f}"]
            lines.append([what, name, len(both), *shown])
    why = sorted({t[2].partition(":")[0] for t in theirs if not t[1]})
    words = (
        f"{len(plain)} aggregated rows that were held out when our constants were fitted; {len(both)} of them aiconfigurator"
        f" predicts{' (else ' + ', '.join(why) + ')' if why else ''}. It looks times up in tables measured on these GPUs;"
        " tunewright has 36 constants, and corrections for stacks.\n\n"
    )
    heads = ["time", "by", "rows", "median error", "mean error", "Spearman"]
    publish(
        "aiconfigurator", "Step times beside aiconfigurator's", "python benchmarks/aiconfigurator_rows.py",
        words + table(heads, lines),
    )  # fmt: skip


if __name__ == "__main__":
    main()
