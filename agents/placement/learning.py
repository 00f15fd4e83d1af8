"""Sibyl and Harmonia, learning online inside the compiled replay: no Python per request.

What is fixed by the papers and what is not is said beside each setting, with its mark: [P] from the paper or its
authors' code, [S] second-hand, [B] background knowledge, [ours] ours.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.agents.placement.network import ATOMS, Net, draw, hand_over, make_net, uniform, update, values
from tunewright.envs.compiled import inlined, jit
from tunewright.envs.linked import Independent
from tunewright.envs.storage.hybrid.features import SCALE, observe
from tunewright.envs.storage.hybrid.kernel import arrive, ask_for, serve
from tunewright.envs.storage.hybrid.lowlevel import look_ahead, page, request
from tunewright.envs.storage.hybrid.reward import INVERSE, fastest_latency, reward_of
from tunewright.envs.storage.hybrid.world import World


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """One agent: its network, its learning, and what it is rewarded for.

    Attributes:
        features: columns of ``features`` it sees (8: and whether the request follows the one before).
        hidden: sizes of the hidden layers.
        atoms: 51 for C51, 1 for DQN.
        learning_rate, gamma, epsilon, batch, memory: of the learning.
        train_every: requests between two trainings.
        updates: batches a training.
        sync_every: requests after which the inference network takes the training network's weights.
        reward: 0: fastest possible latency over latency; 1: minus log2 of latency over the fastest possible.
        penalty: taken off a placement reward per us spent on evictions; off a migration reward for ping-pong.
        horizon: requests that a migration's reward averages over.
        warmup: requests at the start with random actions.
    """

    features: int = 7
    hidden: tuple[int, ...] = (10,)
    atoms: int = 1
    learning_rate: float
    gamma: float
    epsilon: float = 0.001
    batch: int = 128
    memory: int = 1000
    train_every: int = 1000
    updates: int = 8
    sync_every: int = 1000
    reward: int = INVERSE
    penalty: float = 0.0
    horizon: int = 50
    warmup: int = 0


SIBYL = AgentSettings(
    features=6,  # [B]
    hidden=(20, 30),  # [B]
    atoms=ATOMS,  # [B]
    learning_rate=1e-4,  # [B]
    gamma=0.9,  # [B]
    epsilon=0.001,  # [B]
    penalty=0.001,  # [B]
    batch=128,  # [B]
    updates=8,  # [ours] batches a training; how many is not known
    train_every=1000,  # [B]
    sync_every=1000,  # [B]
)
#: the public code [P]: DQN by default, 8 observations, gamma 0.99, learning rate 2e-4; its eighth is ours
SIBYL_CODE = replace(SIBYL, features=8, atoms=1, gamma=0.99, learning_rate=2e-4)
HARMONIA_PLACEMENT = AgentSettings(hidden=(10,), learning_rate=1e-3, gamma=0.9, batch=128)  # [S]
HARMONIA_MIGRATION = AgentSettings(
    hidden=(10,), learning_rate=1e-2, gamma=0.1, batch=256, penalty=0.1
)  # [S]; penalty [ours]


def make_agent(settings: AgentSettings, tiers: int, seed: int) -> tuple[Net, Any]:
    """Make an agent's learner and the numbers of ``AgentSettings`` that the replay needs, float64, (7,)."""
    scale = np.r_[SCALE, np.float32(1)][: settings.features].copy()
    scale[5] = 1.0 / (tiers - 1)
    best = 1.0 / (1.0 - settings.gamma)
    net = make_net(
        scale=scale,
        hidden=settings.hidden,
        actions=tiers,
        atoms=settings.atoms,
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        epsilon=settings.epsilon,
        memory=settings.memory,
        batch=settings.batch,
        returns=(0.0, best) if settings.reward == INVERSE else (-16.0 * best, 0.0),
        seed=seed,
    )
    numbers = np.array(
        [
            settings.train_every,
            settings.updates,
            settings.sync_every,
            settings.reward,
            settings.horizon,
            settings.warmup,
            settings.penalty,
        ],
        np.float64,
    )
    net.count[3], net.count[4] = settings.train_every, settings.sync_every
    return net, numbers


@dataclass(frozen=True, kw_only=True)
class Pair(Independent):
    """A placement agent and, for Harmonia, a migration agent; they go on learning with every replay.

    Attributes:
        policy: sibyl, sibyl-code or harmonia.
        tiers: actions of each agent.
        place, move: the learners; ``move`` is unused unless ``migrating``.
        place_numbers, move_numbers: what the replay needs of their settings.
        migrating: whether there is a migration agent.
        horizon: requests that a migration's reward averages over.
    """

    policy: str
    tiers: int
    place: Net
    place_numbers: Any
    move: Net
    move_numbers: Any
    migrating: bool
    horizon: int

    def stepper(self, world: World) -> Callable[[npt.NDArray[np.float64]], None]:
        """Return a function that replays as many requests as its argument has room for, learning on the way."""
        bins, work = np.zeros(8, np.uint8), np.zeros((4, 256), np.float32)
        ring, carry = np.zeros((2, self.horizon)), np.array([-1.0, 0.0, 0.0])
        return functools.partial(_replay, self, world, (bins, work, ring, carry))

    def correct(self, world: World, request_number: int, latency_us: float) -> None:
        """Replace the placement reward of a request by that of its measured latency, while it is in the memory."""
        asked = world.requests[request_number]
        kind = "write" if asked["write"] else "read"
        sim = world.sims[0]
        device = world.tiers[0]
        fastest = device[f"{kind}_us"] + asked["count"] * device[f"{kind}_page"]
        entry = (int(self.place.count[0]) - (int(sim["clock"]) - request_number)) % len(self.place.action)
        self.place.reward[entry] = reward_of(int(self.place_numbers[3]), latency_us / fastest)

    def memory_bytes(self) -> int:
        """Bytes of the agents: weights, optimiser, replay memory (not the scratch space of a training step)."""
        nets = (self.place, self.move) if self.migrating else (self.place,)
        return sum(
            a.nbytes
            for net in nets
            for a in (net.theta, net.adam, net.grad, net.bins, net.action, net.reward, net.scale)
        )


def _replay(pair: Pair, world: World, scratch: tuple[Any, ...], latency: npt.NDArray[np.float64]) -> None:
    replay(
        world.sims, 0, pair.place, pair.place_numbers, pair.move, pair.move_numbers, pair.migrating, *scratch, latency,
        len(latency),
    )  # fmt: skip


#: placement agent of each published design
DESIGNS = {"sibyl": SIBYL, "sibyl-code": SIBYL_CODE, "harmonia": HARMONIA_PLACEMENT}


def make_pair(policy: str, tiers: int, seed: int, **changes: Any) -> Pair:
    """Make the agents of a published design; ``changes`` are fields of ``AgentSettings`` for both of them."""
    place, place_numbers = make_agent(replace(DESIGNS[policy], **changes), tiers, seed)
    migration = replace(HARMONIA_MIGRATION, **changes)
    move, move_numbers = make_agent(migration, tiers, seed + 1_000_003)
    return Pair(
        policy=policy, tiers=tiers, place=place, place_numbers=place_numbers, move=move, move_numbers=move_numbers,
        migrating=policy == "harmonia", horizon=migration.horizon,
    )  # fmt: skip


@inlined
def choose(net, numbers, state, entry, clock, q, scratch):
    """Write the state into the replay memory and choose an action: greedy, or random for exploration."""
    inputs, actions = net.sizes[0], net.sizes[4]
    for i in range(inputs):
        net.bins[entry, i] = state[i]
    net.reward[entry] = np.float32(np.nan)
    if clock < numbers[5] or uniform(net.rng) < net.setting[2]:
        action = int(draw(net.rng) >> np.uint64(33)) % actions
    else:
        values(net.theta[1], net.sizes, net.setting, net.bins[entry], net.scale, scratch, q)
        action = 0
        for a in range(1, actions):
            if q[a] > q[action]:
                action = a
    net.action[entry] = action
    net.count[0] += 1
    net.count[2] = entry + 1 if entry + 1 < len(net.action) else 0
    return action


@inlined
def learn(net, numbers):
    """Train when it is time, and hand the weights over when it is time."""
    if net.count[0] >= net.count[3]:
        net.count[3] = net.count[0] + int(numbers[0])
        for _ in range(int(numbers[1])):
            update(net)
    if net.count[0] >= net.count[4]:
        net.count[4] = net.count[0] + int(numbers[2])
        hand_over(net)


@jit
def replay(
    sims, k, place, place_numbers, migrate, migrate_numbers, migrating, bins, work, ring, carry, latency, requests
):
    """Replay requests with a placement agent and, if ``migrating``, a migration agent that both learn as they go.

    Args:
        sims, k: system ``k`` of a batch.
        place, place_numbers: the placement agent, from ``make_agent``.
        migrate, migrate_numbers: the migration agent.
        migrating: whether there is one.
        bins: scratch, uint8, (8,).
        work: scratch, float32, (4, largest padded layer).
        ring: latencies over fastest and ping-pong marks of the last requests, float64, (2, horizon).
        carry: end of the last request, sum of ``ring[0]``, requests replayed so far; float64, (3,).
        latency: filled in, us, float64, (requests,).
        requests: how many to serve; a replay in pieces does the same as one in one go.
    """
    sim = sims[k]
    q, scratch = work[0], work[1:]
    memory = len(place.action)
    horizon = ring.shape[1]
    for n in range(requests):
        look_ahead(sim, 6)
        arrive(sim)
        clock = sim.clock
        asked = request(sim.request_at, clock)
        first, count = asked.first, asked.count
        observe(sim, bins)
        bins[7] = 1 if first == carry[0] else 0
        carry[0] = first + count
        fastest = fastest_latency(sim)
        moved = page(sim.page_at, first).moved
        entry = place.count[2]
        target = choose(place, place_numbers, bins, entry, clock, q, scratch)
        where = choose(migrate, migrate_numbers, bins, migrate.count[2], clock, q, scratch) if migrating else -1
        took = serve(sim, target, 0, False)
        latency[n] = took
        gain = reward_of(int(place_numbers[3]), took / fastest)
        if place_numbers[6] > 0.0 and sim.spent > 0.0:
            # the penalty is in units of 1 / us; rewards are ours times the fastest latency
            gain = max(0.0, gain - place_numbers[6] * sim.spent * fastest)
        place.reward[entry] = np.float32(gain)
        learn(place, place_numbers)
        if migrating:
            asks = ask_for(sim, first, count, where)
            done = int(carry[2])
            slot = done % horizon
            if done >= horizon:  # what followed the decision ``horizon`` requests ago is known now
                carry[1] -= ring[0, slot]
            carry[1] += took / fastest
            if done >= horizon:
                due = (migrate.count[0] - 1 - horizon) % memory
                gain = reward_of(int(migrate_numbers[3]), carry[1] / horizon)
                migrate.reward[due] = np.float32(gain - ring[1, slot])
            ring[0, slot] = took / fastest
            ring[1, slot] = migrate_numbers[6] if asks and moved >= 0 and clock - moved < horizon else 0.0
            learn(migrate, migrate_numbers)
        carry[2] += 1.0
