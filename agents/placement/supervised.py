"""Baselines that learn by supervision, once an epoch: after Archivist and RNN-HSS as the Sibyl paper describes them.

Both use the network of ``network`` with one output, gamma 0 and the label as reward, which makes the update a plain
regression. RNN-HSS's recurrent network is replaced by one that sees the last eight epochs of a page at once: the same
input, without recurrence; that is ours, and the reason that it is an equivalent and not the original.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import numpy as np

from tunewright.agents.placement.heuristics import joins
from tunewright.agents.placement.network import Net, hand_over, make_net, update, values
from tunewright.envs.compiled import jit
from tunewright.envs.storage.hybrid.features import SCALE, observe
from tunewright.envs.storage.hybrid.kernel import arrive, move, serve
from tunewright.envs.storage.hybrid.lowlevel import page, request

EPOCH = 1000  # requests; ours
HOT = 2  # touches in an epoch that make a page hot; ours
HISTORY = 8  # epochs that the equivalent of RNN-HSS sees; ours
UPDATES = 30  # batches an epoch; ours
RUN = 64  # pages moved together; ours


def make_classifier(inputs: int, seed: int) -> Net:
    """Make a classifier of hot pages: one hidden layer of 16, learning rate 1e-3."""
    scale = SCALE[:inputs] if inputs == len(SCALE) else np.full(inputs, 1 / 8, np.float32)
    return make_net(
        scale=scale, hidden=(16,), actions=1, learning_rate=1e-3, gamma=0.0, epsilon=0.0, memory=2 * EPOCH, seed=seed
    )


@jit
def _teach(net):
    for _ in range(UPDATES):
        update(net)
    hand_over(net)


@jit
def archivist(sims, k, net, touches, bins, work, latency, requests):
    """Classify a page when it is written, by what was hot in the epochs before; nothing is promoted.

    ``touches`` is int64, (pages,), zero; ``bins`` uint8, (8,); ``work`` float32, (4, 32); ``latency`` is filled in.
    """
    sim = sims[k]
    memory = len(net.action)
    for n in range(requests):
        arrive(sim)
        asked = request(sim.request_at, sim.clock)
        observe(sim, bins)
        entry = net.count[0] % memory
        for i in range(7):
            net.bins[entry, i] = bins[i]
        net.action[entry] = 0
        net.reward[entry] = np.float32(np.nan)
        net.count[0] += 1
        touches[asked.first] += 1
        target = -1
        if asked.write:
            values(net.theta[1], net.sizes, net.setting, net.bins[entry], net.scale, work[1:], work[0])
            target = 0 if work[0, 0] >= 0.5 else sim.tiers - 1
        latency[n] = serve(sim, target, 0, False)
        if sim.clock % EPOCH == 0:
            begun = max(0, sim.clock - EPOCH)
            for i in range(begun, sim.clock):
                hot = touches[request(sim.request_at, i).first] >= HOT
                net.reward[(net.count[0] - sim.clock + i) % memory] = np.float32(1.0) if hot else np.float32(0.0)
            for i in range(begun, sim.clock):
                touches[request(sim.request_at, i).first] = 0
            _teach(net)


@jit
def history_network(sims, k, net, touched, touches, history, seen, work, carry, latency, requests):
    """Predict at the end of an epoch which of its pages will be hot in the next, and move those to the first tier.

    ``touched`` is int64, (2, pages); ``touches`` int64, (pages,); ``history`` uint8, (pages, HISTORY), the newest last;
    ``seen`` int64, (pages,), the epoch of the newest entry, -1 for none; ``work`` float32, (4, 32);
    ``carry`` int64, (3,): epoch, pages touched in it and in the one before.
    """
    sim = sims[k]
    memory = len(net.action)
    for n in range(requests):
        epoch = carry[0]
        arrive(sim)
        asked = request(sim.request_at, sim.clock)
        now, before = carry[1], carry[2]
        for at in range(asked.first, asked.first + asked.count):
            if touches[at] == 0:
                touched[epoch % 2, now] = at
                now += 1
            touches[at] += 1
        carry[1] = now
        latency[n] = serve(sim, -1, 0, False)
        if sim.clock % EPOCH != 0:
            continue
        stride = max(1, before // EPOCH)
        for j in range(0, before, stride):  # what was seen at the last epoch's end, and what came of it
            at = touched[1 - epoch % 2, j]
            entry = net.count[0] % memory
            for i in range(HISTORY):
                net.bins[entry, i] = history[at, i]
            net.action[entry] = 0
            net.reward[entry] = np.float32(1.0) if touches[at] >= HOT else np.float32(0.0)
            net.count[0] += 1
        _teach(net)
        run = 0  # hot pages behind each other that are moved together
        moved = 0
        for j in range(now):
            at = touched[epoch % 2, j]
            gap = min(epoch - seen[at], HISTORY) if seen[at] >= 0 else HISTORY
            for i in range(HISTORY):
                history[at, i] = history[at, i + gap] if i + gap < HISTORY else 0
            history[at, HISTORY - 1] = min(touches[at], 8)
            seen[at] = epoch
            touches[at] = 0
            hot = False
            if page(sim.page_at, at).tier > 0 and moved < sim.capacity[0]:
                values(net.theta[1], net.sizes, net.setting, history[at], net.scale, work[1:], work[0])
                hot = work[0, 0] >= 0.5
            if run > 0 and not (hot and joins(sim, touched[epoch % 2, j - 1], at) and run < RUN):
                move(sim, sim.page_at, touched[epoch % 2, j - run], run, 0, sim.now)
                moved += run
                run = 0
            run += 1 if hot else 0
        if run > 0:
            move(sim, sim.page_at, touched[epoch % 2, now - run], run, 0, sim.now)
        carry[0], carry[1], carry[2] = epoch + 1, 0, now
