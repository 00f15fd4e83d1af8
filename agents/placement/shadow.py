"""The policy "tunewright": candidates run in simulation beside the real system, and the best one of late decides.

Five candidates, from "writes only, nothing promoted" to reading far ahead, each have a simulated system of their own
that sees the same requests. The one with the lowest exponentially weighted latency decides for the real system: it
follows the leader, with forgetting.

A sixth candidate that was tried and dropped: counts, per kind of request and region, of how often what was promoted or
read ahead was really read (labels in hindsight). With and without it the geometric means over all traces were within
0.6 % of each other, in its disfavour.

The simulated systems need page tables of their own; that is the price, and it is stated in docs/hybrid.md.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from tunewright.envs.compiled import jit
from tunewright.envs.storage.hybrid.devices import Device
from tunewright.envs.storage.hybrid.kernel import arrive, serve
from tunewright.envs.storage.hybrid.lowlevel import look_ahead, page, request

WRITES, SECOND, ALL = range(3)
#: candidate: what is promoted, and how many pages behind a read are fetched (see ``kernel.serve``)
CANDIDATES = ((WRITES, 0), (ALL, -16), (ALL, -64), (ALL, -256), (SECOND, 0))
WINDOW = 1000.0  # requests that the comparison looks back on
MARGIN = 0.98  # a candidate must be better than the deciding one by this factor
PATIENCE = 5  # requests before the first change


def first_candidate(device: Device) -> int:
    """Candidate to begin with, before there is anything to compare: what a miss costs on the slowest device decides.

    It is the one that reads furthest ahead among those whose read-ahead takes no longer than the random read it may
    save: far on a disk, not at all on an SSD.
    """
    fields = device.kernel_fields()
    miss = fields["read_us"] + fields["read_page"]
    if device.kind == "disk":
        miss += fields["seek_min"] + fields["seek_span"] * 8 / 15 + fields["revolution"] / 2
    fitting = [k for k, (rule, ahead) in enumerate(CANDIDATES) if rule == ALL and -ahead * fields["read_page"] <= miss]
    return max(fitting, key=lambda k: -CANDIDATES[k][1], default=0)


@jit
def act(sim, rule, ahead):
    """Serve the request that has arrived as a candidate would; returns its latency."""
    asked = request(sim.request_at, sim.clock)
    if asked.write:
        return serve(sim, 0, 0, False)
    stays = rule == WRITES or (rule == SECOND and page(sim.page_at, asked.first).count == 0)
    return serve(sim, -1 if stays else 0, ahead, False)


@jit
def replay(sims, candidates, score, carry, chosen, latency, requests):
    """Replay requests on system 0, with the systems behind it as shadows, one a candidate.

    Args:
        sims: ``len(candidates) + 1`` systems at the same request.
        candidates: int64, (candidates, 2), from ``CANDIDATES``.
        score: weighted sums of latencies, float64, (candidates,), zero.
        carry: who decides, requests so far; int64, (2,).
        chosen: filled in: who decided, int64, (requests,).
        latency: filled in, us, float64, (requests,).
        requests: how many to serve; a replay in pieces does the same as one in one go.
    """
    sim = sims[0]
    deciding = carry[0]
    decay = 1.0 - 1.0 / WINDOW
    for n in range(requests):
        for k in range(len(candidates)):
            shadow = sims[k + 1]
            look_ahead(shadow, 2)
            arrive(shadow)
            score[k] = score[k] * decay + act(shadow, candidates[k, 0], candidates[k, 1])
        if carry[1] > PATIENCE:
            best = deciding
            for k in range(len(candidates)):
                if score[k] < score[best] * (1.0 if best != deciding else MARGIN):
                    best = k
            deciding = best
        chosen[n] = deciding
        carry[0] = deciding
        carry[1] += 1
        arrive(sim)
        latency[n] = act(sim, candidates[deciding, 0], candidates[deciding, 1])
