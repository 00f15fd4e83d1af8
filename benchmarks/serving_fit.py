"""Fits the constants of the step-time model: python benchmarks/serving_fit.py [--write].

Prints the errors on the rows that plan_split.py holds out, and with --write puts constants and corrections fitted to the
other rows into envs/parallelism/presets/serving.toml.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tomli_w
from common import DATA, table
from plan_split import serving_held_out
from scipy.optimize import least_squares

from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism import steptime as S
from tunewright.envs.parallelism.measured import read, spearman
from tunewright.envs.parallelism.serving_cases import served
from tunewright.envs.parallelism.serving_load import first_token_s, unknown_batch

OUTPUT = Path(__file__).parents[1] / "envs" / "parallelism" / "presets" / "serving.toml"
HOSTS = ("h100", "h200", "b200", "b300", "gb200", "gb300")
# start and bounds; those with a backend's name before the dot are of that backend
COMMON = {
    "expert_s": (3e-5, 0, 2e-4), "memory": (0.7, 0.3, 1), "flops": (0.55, 0.1, 1), "cache": (0.8, 0.2, 1), "latent": (0.6, 0.1, 4),
    "hop_s": (5e-6, 0, 5e-5), "link": (0.9, 0.2, 1), "far": (5, 1, 30), "prefill_fp4": (1.2, 0.5, 3), "step_fp4": (0.86, 0.5, 1.5),
    "most": (330, 128, 2048),
}  # fmt: skip
BACKEND = {
    "base_s": (5e-4, 0, 1e-2), "layer_s": (3e-5, 0, 2e-4), "sequence_s": (3e-5, 0, 1e-4), "prefill": (1.6, 0.1, 8), "admit_s": (5e-3, 0, 5e-2),
}  # fmt: skip
UNKNOWN = {
    "power": (0.8, 0.3, 1.2), "scale": (0.6, 0.1, 4), "isl": (0.2, -1.5, 1.5), "osl": (0.2, -1.5, 1.5), "faster": (0.85, 0.3, 1.2),
}  # fmt: skip
FIRST = {"first_steps": (9.0, 0, 30), "first_prefill": (1.4, 0.1, 10), "wave_power": (0.1, -1, 0.6)}
FIRST_BACKEND = {"first_s": (0.06, 0, 1), "wave": (0.1, 0, 3)}
FIRST_DISAGG = {"prefill": (4.0, 0.2, 10), "wave": (0.05, 0, 2)}

SPREAD, PART_WIDTH, VERSION_WIDTH = 0.12, 0.5, 0.3  # of logs


def load():
    _, rows = read(DATA / "parallelism" / "serving_silicon_fit.csv.gz")
    cases = [served(r) for r in rows]
    held = np.array([serving_held_out(r.cells["id"]) for r in rows])
    return cases, held


class Table:
    """The cases as arrays, so that a fit evaluates all of them at once."""

    def __init__(self, cases):
        self.cases = cases
        shapes = {n: S.shape_of(models.load(n)) for n in {c.model for c in cases}}
        self.shape = S.Shape(*(np.array([float(getattr(shapes[c.model], f)) for c in cases]) for f in S.Shape._fields))
        kinds = clusters.presets()
        self.nodes = SimpleNamespace(
            **{
                f: np.array([float(kinds[c.kind][f]) for c in cases])
                for f in ("bf16_tflops", "memory_gb_s", "link_gb_s", "per_node")
            }
        )
        found = np.array([S.precision_of(c.precision, c.kind) for c in cases])
        self.size, self.speed, self.four = found.T
        for f in ("gpus", "ranks", "prefill_gpus", "isl", "osl", "batch", "ttft_s", "tpot_s"):
            setattr(self, f, np.array([getattr(c, f) for c in cases], dtype=float))
        self.backend = np.array([S.BACKENDS.index(c.backend) for c in cases])
        self.host = np.array([HOSTS.index(c.kind) for c in cases])
        self.dis = np.array([c.mode == "disagg" for c in cases])
        self.cache_bytes = np.array([S.cache_bytes_of(c.precision) for c in cases])
        self.unknown = np.array([not c.workers_known for c in cases])

    def stack(self, v):
        hosts = np.array([v.get(f"host.{k}", 1.0) for k in HOSTS])
        per = {
            n: np.array([v[f"{b}.{n}"] for b in S.BACKENDS])[self.backend]
            for n in {k.partition(".")[2] for k in v if k.partition(".")[0] in S.BACKENDS}
        }
        rest = {k: x for k, x in v.items() if "." not in k}
        return SimpleNamespace(**{**vars(S.Stack()), **rest, **per, "host": hosts[self.host]})

    def engine(self, v, gpus=None):
        return S.engine(
            self.shape, self.nodes, self.stack(v), gpus=self.gpus if gpus is None else gpus, ranks=self.ranks if gpus is None else 1.0,
            weight_bytes=self.size, speed=self.speed, four=self.four, cache_bytes=self.cache_bytes,
        )  # fmt: skip

    def batches(self, v, e):
        known = np.minimum(self.batch, e.most * self.ranks)
        fitted = {n: v[f"unknown.{n}"] for n in UNKNOWN}
        return np.where(self.unknown, unknown_batch(self.batch, self.isl, self.osl, fitted), known)

    def parts(self, v):
        """Time of an output token by the four parts of ``steptime.Factors``, [4, rows]: it is linear in them."""
        e = self.engine(v)
        batch = self.batches(v, e)
        faster = np.where(self.unknown, v["unknown.faster"], 1.0)
        alone = [S.corrected(e, S.Factors(*one)) for one in np.eye(4)]
        return np.stack([
            np.where(
                self.dis, S.decode_s(part, batch, self.isl + 0.5 * self.osl) * faster, S.tpot_s(part, batch, self.isl, self.osl)
            )
            for part in alone
        ])  # fmt: skip

    def tpot(self, v):
        return self.parts(v).sum(axis=0)

    def ttft(self, v, tpot):
        e = self.engine(v, np.where(self.dis, self.prefill_gpus, self.gpus))
        st = self.stack(v)
        own = np.where(self.dis, v["disagg.prefill"], st.first_prefill)
        wave = np.where(self.dis, v["disagg.wave"], st.wave)
        return first_token_s(
            S.prefill_s(e, self.isl),
            tpot,
            self.batch,
            SimpleNamespace(**{**vars(st), "first_prefill": own, "wave": wave}),
        )


def fit(function, measured, start, bounds, mask):
    names = list(bounds)
    scale = np.array([max(abs(bounds[n][0]), 1e-9) for n in names])
    low, high = (np.array([bounds[n][k] for n in names], float) / scale for k in (1, 2))

    def off(x):
        values = {**start, **dict(zip(names, x * scale, strict=True))}
        return (np.log(function(values)) - np.log(measured))[mask]

    x0 = np.clip(np.array([bounds[n][0] for n in names]) / scale, low + 1e-9, high - 1e-9)
    found = least_squares(off, x0, bounds=(low, high), loss="soft_l1", f_scale=0.15)
    return {**start, **dict(zip(names, (float(v) for v in found.x * scale), strict=True))}


def names_of(c):
    """The names of a row's stack, and of that in its version."""
    stack = S.stack_name(c.backend, c.model, c.kind, c.precision, c.mode)
    return stack, f"{stack} {c.version or '-'}"


def step_corrections(cases, parts, measured, mask):
    """Factors on the parts of each stack's steps, and on those of its versions: the likeliest, shrunk towards 1.

    Each stack is fitted alone. Residuals are in units of SPREAD and count less where they are large; the logs of the factors
    are drawn to 0 by normal priors, whose widths were chosen by cross-validation within the fitted rows.
    """
    stacks = defaultdict(list)
    for k, c in enumerate(cases):
        if mask[k]:
            stacks[names_of(c)[0]].append(k)
    found = {"parts": {}, "version": {}}
    for stack, rows in stacks.items():
        own = [names_of(cases[k])[1] for k in rows]
        names = sorted(set(own))
        where = np.array([names.index(name) for name in own])
        widths = np.concatenate([np.full(4, PART_WIDTH), np.full(len(names), VERSION_WIDTH)])

        def off(x, rows=rows, where=where, widths=widths):
            log = np.log(np.exp(x[:4]) @ parts[:, rows]) + x[4:][where]
            z = (log - np.log(measured[rows])) / SPREAD
            return np.concatenate([np.sign(z) * np.sqrt(2 * (np.sqrt(1 + z * z) - 1)), x / widths])

        x = np.exp(least_squares(off, np.zeros(len(widths))).x)
        found["parts"][stack] = [round(float(f), 4) for f in x[:4]]
        found["version"] |= {name: round(float(f), 4) for name, f in zip(names, x[4:], strict=True)}
    names = [names_of(c) for c in cases]
    by = np.array([found["parts"].get(stack, [1.0] * 4) for stack, _ in names]).T
    whole = np.array([found["version"].get(version, 1.0) for _, version in names])
    return found, whole * (by * parts).sum(axis=0)


def first_corrections(cases, log_ratio, mask, shrink=8.0):
    """Median of what is left for each stack, then for each of its versions, shrunk by the number of rows."""
    out, left = {}, log_ratio.copy()
    for level in range(2):
        groups = defaultdict(list)
        for k, c in enumerate(cases):
            if mask[k]:
                groups[names_of(c)[level]].append(left[k])
        factors = {g: float(np.median(v) * len(v) / (len(v) + shrink)) for g, v in groups.items()}
        left = left - np.array([factors.get(names_of(c)[level], 0.0) for c in cases])
        out |= {g: round(float(np.exp(f)), 4) for g, f in factors.items()}
    return out, np.exp(log_ratio - left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    cases, held = load()
    data = Table(cases)
    start = {f: v[0] for f, v in COMMON.items()}
    bounds = dict(COMMON)
    for b in S.BACKENDS:
        bounds |= {f"{b}.{n}": v for n, v in BACKEND.items()}
    bounds |= {f"host.{k}": (1.0, 0.3, 3.0) for k in HOSTS if k != "h100"}
    bounds |= {f"unknown.{n}": v for n, v in UNKNOWN.items()}
    values = fit(data.tpot, data.tpot_s, start, bounds, ~held)
    tpot = data.tpot(values)
    step, corrected_tpot = step_corrections(cases, data.parts(values), data.tpot_s, ~held)
    more = {
        **FIRST,
        **{f"{b}.{n}": v for b in S.BACKENDS for n, v in FIRST_BACKEND.items()},
        **{f"disagg.{n}": v for n, v in FIRST_DISAGG.items()},
    }
    values = fit(lambda v: data.ttft(v, tpot), data.ttft_s, values, more, ~held)
    ttft = data.ttft(values, tpot)
    corrected_ttft = data.ttft(values, corrected_tpot)
    first_factors, first_by_row = first_corrections(cases, np.log(data.ttft_s / corrected_ttft), ~held)
    lines = []
    for what, measured, plain, corrected in (
        ("TPOT", data.tpot_s, tpot, corrected_tpot),
        ("TTFT", data.ttft_s, ttft, corrected_ttft * first_by_row),
    ):
        for words, mask in (("all", held), ("aggregated", held & ~data.dis), ("disaggregated", held & data.dis)):
            for how, predicted in (("without corrections", plain), ("with", corrected)):
                off = np.abs(predicted[mask] / measured[mask] - 1)
                lines.append(
                    [
                        what,
                        words,
                        how,
                        int(mask.sum()),
                        f"{100 * np.median(off):.1f} %",
                        f"{100 * off.mean():.1f} %",
                        f"{spearman(measured[mask], predicted[mask]):.3f}",
                    ]
                )
    print(
        table(
            ["time", "held-out rows", "corrections of the stack", "rows", "median error", "mean error", "Spearman"],
            lines,
        )
    )
    for k, v in values.items():
        print(f"{k} = {v:.4g}")
    if options.write:
        document = {
            "source": "measured serving plans (aiconfigurator, Apache-2.0); benchmarks/serving_fit.py, fitted to the rows that are not held out",
            "common": {k: v for k, v in values.items() if "." not in k},
            "backend": {b: {k.partition(".")[2]: v for k, v in values.items() if k.startswith(b + ".")} for b in S.BACKENDS},
            "host": {k: values.get(f"host.{k}", 1.0) for k in HOSTS},
            "unknown": {k: values[f"unknown.{k}"] for k in UNKNOWN}, "disagg": {k: values[f"disagg.{k}"] for k in FIRST_DISAGG},
            "correction": {**step, "first": first_factors},
        }  # fmt: skip
        OUTPUT.write_text(
            "# Written by benchmarks/serving_fit.py --write.\n\n" + tomli_w.dumps(document), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
