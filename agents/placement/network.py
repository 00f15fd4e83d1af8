"""Small networks that learn inside the kernel: forward, backward and Adam for DQN and C51, compiled.

A network has one or two hidden layers with swish. Its parameters are one float32 vector: layer after layer a matrix of
``inputs + 1`` rows (the last is the bias) and as many columns as outputs, padded to sixteen so that a row is whole
vectors. In training the batch is the contiguous axis. Replay states are stored as bytes (the bins of ``features``).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import copy
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tunewright.agents.placement.inference import HIDDEN, INPUTS, LANES, forward16
from tunewright.envs.compiled import fast_jit as jit

ATOMS = 51  # of C51 (Bellemare et al. 2017), as Sibyl uses it


def padded(outputs: int) -> int:
    """Columns of a layer with so many outputs."""
    return -(-outputs // LANES) * LANES


class Net(NamedTuple):
    """A learner: parameters, optimiser, replay memory and scratch space.

    Attributes:
        sizes: inputs, first hidden, second hidden (0: none), outputs, actions, atoms (1: DQN); int64, (6,).
        theta: parameters of the training network and of the inference network, float32, (2, parameters).
        adam: first and second moments, float32, (2, parameters).
        bins: replayed states, uint8, (memory, inputs).
        action: uint8, (memory,). reward: float32, (memory,), nan until it is known.
        scale: bins to inputs, float32, (inputs,).
        work: scratch, float32, (rows, batch).
        grad: float32, (parameters,).
        setting: learning rate, gamma, epsilon, lowest and highest return of C51; float64, (5,).
        count: entries written, updates made, next row of the memory, entries at which to train and to hand the weights
            over next; int64, (5,).
        rng: state of the generator, uint64, (1,).
    """

    sizes: Any
    theta: Any
    adam: Any
    bins: Any
    action: Any
    reward: Any
    scale: Any
    work: Any
    grad: Any
    setting: Any
    count: Any
    rng: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_room, tuple(self)

    def __copy__(self) -> Net:
        return copy.deepcopy(self)


def _with_room(*parts: Any) -> Net:
    """Return a learner of these parts, with the bytes that vectors read behind states and scale, which copies lack."""
    net = Net(*parts)
    return net._replace(
        bins=np.r_[net.bins, np.zeros((2, net.bins.shape[1]), np.uint8)][: len(net.bins)],
        scale=np.r_[net.scale, np.zeros(8, np.float32)][: len(net.scale)],
    )


def make_net(
    *,
    scale: npt.NDArray[np.float32],
    hidden: tuple[int, ...],
    actions: int,
    atoms: int = 1,
    learning_rate: float,
    gamma: float,
    epsilon: float,
    memory: int = 1000,
    batch: int = 128,
    returns: tuple[float, float] = (0.0, 10.0),
    seed: int = 0,
) -> Net:
    """Make a learner with random weights (uniform within one over the root of the inputs, as torch does)."""
    inputs, outputs = len(scale), actions * atoms
    h1, h2 = (*hidden, 0)[:2]
    rng = np.random.default_rng(seed)
    layers = []
    ends = (inputs, *hidden, outputs)
    for a, b in itertools.pairwise(ends):
        layer = np.zeros((a + 1, padded(b)), np.float32)
        layer[:, :b] = rng.uniform(-1, 1, (a + 1, b)) / math.sqrt(a)
        layers.append(layer.ravel())
    theta = np.concatenate(layers)
    rows = 2 * (inputs + h1 + h2 + outputs) + atoms + 8
    net = Net(
        sizes=np.array([inputs, h1, h2, outputs, actions, atoms], np.int64),
        theta=np.stack([theta, theta]),
        adam=np.zeros((2, len(theta)), np.float32),
        bins=np.zeros((memory, inputs), np.uint8),
        action=np.zeros(memory, np.uint8),
        reward=np.full(memory, np.nan, np.float32),
        scale=scale.astype(np.float32),
        work=np.zeros((rows, batch), np.float32),
        grad=np.zeros(len(theta), np.float32),
        setting=np.array([learning_rate, gamma, epsilon, *returns]),
        count=np.zeros(5, np.int64),
        rng=np.array([rng.integers(1, 2**63)], np.uint64),
    )
    return _with_room(*net)


@jit
def draw(rng):
    """Next 64 random bits (splitmix64)."""
    rng[0] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def uniform(rng):
    """A random number in [0, 1)."""
    return np.float64(draw(rng) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@jit
def exp32(x):
    """e^x in float32 arithmetic that a compiler can do for many at once; relative error below 3e-7."""
    y = min(max(x * np.float32(1.4426950408889634), np.float32(-126.0)), np.float32(126.0))
    n = np.floor(y + np.float32(0.5))
    f = (y - n) * np.float32(0.6931471805599453)
    p = np.float32(1.0 / 720.0)
    p = p * f + np.float32(1.0 / 120.0)
    p = p * f + np.float32(1.0 / 24.0)
    p = p * f + np.float32(1.0 / 6.0)
    p = p * f + np.float32(0.5)
    p = p * f + np.float32(1.0)
    p = p * f + np.float32(1.0)
    return p * np.int32((np.int32(n) + 127) << 23).view(np.float32)


@jit
def _layer(theta, offset, inputs, outputs, source, into):
    """into[o, :] = bias + sum over i of weight[i, o] * source[i, :]."""
    batch = source.shape[1]
    columns = (outputs + 15) // 16 * 16
    for o in range(outputs):
        bias = theta[offset + inputs * columns + o]
        for b in range(batch):
            into[o, b] = bias
        for i in range(inputs):
            w = theta[offset + i * columns + o]
            for b in range(batch):
                into[o, b] += w * source[i, b]
    return offset + (inputs + 1) * columns


@jit
def _swish(units, z, into):
    batch = z.shape[1]
    for u in range(units):
        for b in range(batch):
            x = z[u, b]
            into[u, b] = x / (np.float32(1.0) + exp32(-x))


@jit
def _swish_back(units, z, delta):
    batch = z.shape[1]
    for u in range(units):
        for b in range(batch):
            x = z[u, b]
            s = np.float32(1.0) / (np.float32(1.0) + exp32(-x))
            delta[u, b] *= s * (np.float32(1.0) + x * (np.float32(1.0) - s))


@jit
def _layer_back(grad, offset, inputs, outputs, source, delta):
    """Gradient of a layer's weights."""
    batch = source.shape[1]
    columns = (outputs + 15) // 16 * 16
    for o in range(outputs):
        total = np.float32(0.0)
        for b in range(batch):
            total += delta[o, b]
        grad[offset + inputs * columns + o] = total
        for i in range(inputs):
            total = np.float32(0.0)
            for b in range(batch):
                total += delta[o, b] * source[i, b]
            grad[offset + i * columns + o] = total


@jit
def forward(theta, sizes, x, z1, a1, z2, a2, out):
    """Outputs for a batch; ``x`` is (inputs, batch)."""
    inputs, h1, h2, outputs = sizes[0], sizes[1], sizes[2], sizes[3]
    offset = _layer(theta, 0, inputs, h1, x, z1)
    _swish(h1, z1, a1)
    if h2 > 0:
        offset = _layer(theta, offset, h1, h2, a1, z2)
        _swish(h2, z2, a2)
        _layer(theta, offset, h2, outputs, a2, out)
    else:
        _layer(theta, offset, h1, outputs, a1, out)


@jit
def _backward(theta, grad, sizes, x, z1, a1, z2, a2, out):
    """Gradient of the parameters; ``out`` holds that of the outputs and the ``a`` are overwritten."""
    inputs, h1, h2, outputs = sizes[0], sizes[1], sizes[2], sizes[3]
    c1, c2 = (h1 + 15) // 16 * 16, (h2 + 15) // 16 * 16
    second = (inputs + 1) * c1
    third = second + (h1 + 1) * c2
    if h2 > 0:
        _layer_back(grad, third, h2, outputs, a2, out)
        _inputs_back(theta, third, h2, outputs, out, a2)
        _swish_back(h2, z2, a2)
        _layer_back(grad, second, h1, h2, a1, a2)
        _inputs_back(theta, second, h1, h2, a2, a1)
    else:
        _layer_back(grad, second, h1, outputs, a1, out)
        _inputs_back(theta, second, h1, outputs, out, a1)
    _swish_back(h1, z1, a1)
    _layer_back(grad, 0, inputs, h1, x, a1)


@jit
def _inputs_back(theta, offset, inputs, outputs, delta, back):
    """Gradient of a layer's inputs."""
    batch = delta.shape[1]
    columns = (outputs + 15) // 16 * 16
    for i in range(inputs):
        for b in range(batch):
            back[i, b] = np.float32(0.0)
        for o in range(outputs):
            w = theta[offset + i * columns + o]
            for b in range(batch):
                back[i, b] += w * delta[o, b]


@jit
def _adam(theta, grad, adam, rate, step):
    c1 = np.float32(1.0 / (1.0 - 0.9**step))
    c2 = np.float32(1.0 / (1.0 - 0.999**step))
    r = np.float32(rate)
    for k in range(len(theta)):
        g = grad[k]
        m = np.float32(0.9) * adam[0, k] + np.float32(0.1) * g
        v = np.float32(0.999) * adam[1, k] + np.float32(0.001) * g * g
        adam[0, k], adam[1, k] = m, v
        theta[k] -= r * (m * c1) / (math.sqrt(v * c2) + np.float32(1e-8))


@jit
def softmax_back_c51(out, nxt, action, reward, best, sizes, setting, scratch):
    """Turn C51's logits into the gradient of its cross entropy against the projected target distribution."""
    batch = out.shape[1]
    actions, atoms = sizes[4], sizes[5]
    low, high, gamma = np.float32(setting[3]), np.float32(setting[4]), np.float32(setting[1])
    step = (high - low) / np.float32(atoms - 1)
    for b in range(batch):
        for k in range(atoms):
            scratch[k, b] = np.float32(0.0)
        base = int(best[b]) * atoms
        for k in range(atoms):
            value = reward[b] + gamma * (low + step * np.float32(k))
            place = (min(max(value, low), high) - low) / step
            lower = int(place)
            upper = min(lower + 1, atoms - 1)
            share = place - np.float32(lower)
            p = nxt[base + k, b]
            scratch[lower, b] += p * (np.float32(1.0) - share)
            scratch[upper, b] += p * share
    for a in range(actions):
        for k in range(atoms):
            row = a * atoms + k
            for b in range(batch):
                chosen = np.float32(1.0) if int(action[b]) == a else np.float32(0.0)
                out[row, b] = chosen * (out[row, b] - scratch[k, b]) / np.float32(batch)


@jit
def _softmax(out, actions, atoms, top, total):
    """Logits to probabilities, action by action; ``top`` and ``total`` are scratch rows."""
    batch = out.shape[1]
    for a in range(actions):
        for b in range(batch):
            top[b] = out[a * atoms, b]
            total[b] = np.float32(0.0)
        for k in range(1, atoms):
            for b in range(batch):
                top[b] = max(top[b], out[a * atoms + k, b])
        for k in range(atoms):
            for b in range(batch):
                e = exp32(out[a * atoms + k, b] - top[b])
                out[a * atoms + k, b] = e
                total[b] += e
        for b in range(batch):
            total[b] = np.float32(1.0) / total[b]
        for k in range(atoms):
            for b in range(batch):
                out[a * atoms + k, b] *= total[b]


@jit
def update(net):
    """One step of Adam on a batch drawn from the replay memory; nothing happens before it holds a batch.

    DQN minimises the Huber loss to ``r + gamma * max Q_inference(s')``, C51 the cross entropy to its projected
    distribution. The state after a transition is the one stored next.
    """
    batch = net.work.shape[1]
    memory = len(net.action)
    filled = min(net.count[0], memory)
    if filled < batch + 2:
        return False
    sizes, work = net.sizes, net.work
    inputs, h1, h2, outputs, actions, atoms = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
    row = 0
    x = work[row : row + inputs]
    row += inputs
    y = work[row : row + inputs]
    row += inputs
    z1, a1 = work[row : row + h1], work[row + h1 : row + 2 * h1]
    row += 2 * h1
    z2, a2 = work[row : row + h2], work[row + h2 : row + 2 * h2]
    row += 2 * h2
    out, nxt = work[row : row + outputs], work[row + outputs : row + 2 * outputs]
    row += 2 * outputs
    action, reward, best = work[row], work[row + 1], work[row + 2]
    spare = work[row + 3 :]
    newest = (net.count[0] - 1) % memory
    for b in range(batch):
        j = int(draw(net.rng) % np.uint64(filled))
        tries = 0
        while (j == newest or math.isnan(net.reward[j])) and tries < 50:
            j = int(draw(net.rng) % np.uint64(filled))
            tries += 1
        if tries == 50:
            return False
        after = (j + 1) % memory
        for i in range(inputs):
            x[i, b] = net.bins[j, i] * net.scale[i]
            y[i, b] = net.bins[after, i] * net.scale[i]
        action[b] = net.action[j]
        reward[b] = net.reward[j]
    forward(net.theta[1], sizes, y, z1, a1, z2, a2, nxt)
    if atoms > 1:
        _softmax(nxt, actions, atoms, spare[0], spare[1])
        step = np.float32((net.setting[4] - net.setting[3]) / (atoms - 1))
        for b in range(batch):
            top = np.float32(-1e30)
            for a in range(actions):
                mean = np.float32(0.0)
                for k in range(atoms):
                    mean += nxt[a * atoms + k, b] * np.float32(k) * step
                if mean > top:
                    top = mean
                    best[b] = a
    forward(net.theta[0], sizes, x, z1, a1, z2, a2, out)
    if atoms > 1:
        _softmax(out, actions, atoms, spare[0], spare[1])
        softmax_back_c51(out, nxt, action, reward, best, sizes, net.setting, spare)
    else:
        gamma = np.float32(net.setting[1])
        for b in range(batch):
            top = nxt[0, b]
            for a in range(1, actions):
                top = max(top, nxt[a, b])
            goal = reward[b] + gamma * top
            for a in range(actions):
                error = out[a, b] - goal if int(action[b]) == a else np.float32(0.0)
                out[a, b] = min(max(error, np.float32(-1.0)), np.float32(1.0)) / np.float32(batch)
    _backward(net.theta[0], net.grad, sizes, x, z1, a1, z2, a2, out)
    net.count[1] += 1
    _adam(net.theta[0], net.grad, net.adam, net.setting[0], net.count[1])
    return True


@jit
def hand_over(net):
    """Give the training network's weights to the inference network."""
    for k in range(net.theta.shape[1]):
        net.theta[1, k] = net.theta[0, k]


@jit
def values(theta, sizes, setting, bins, scale, scratch, q):
    """Value of each action for one state; ``q`` is filled in.

    The placement network of Harmonia's shape goes through ``inference.forward16``, all others through plain loops. The
    arrays must be those of a ``Net`` and the scratch as long as said: vectors read and write whole registers.

    Args:
        theta: parameters, (parameters,).
        sizes, setting, scale: of the ``Net``.
        bins: state, uint8, (inputs,).
        scratch: float32, at least (3, padded(largest layer)).
        q: float32, (actions,).
    """
    if sizes[0] == INPUTS and sizes[1] == HIDDEN and sizes[2] == 0 and sizes[5] == 1 and sizes[3] <= LANES:
        forward16(theta.ctypes.data, bins.ctypes.data, scale.ctypes.data, scratch.ctypes.data)
        for a in range(sizes[4]):
            q[a] = scratch[0, a]
        return
    plain_values(theta, sizes, setting, bins, scale, scratch, q)


@jit
def plain_values(theta, sizes, setting, bins, scale, scratch, q):
    """``values`` by plain loops."""
    inputs, h1, h2, outputs, actions, atoms = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
    for i in range(inputs):
        scratch[0, i] = bins[i] * scale[i]
    offset, current, width = 0, 0, inputs
    for layer in range(3):
        size = h1 if layer == 0 else (h2 if layer == 1 else outputs)
        if size == 0:
            continue
        columns = (size + 15) // 16 * 16
        into = 1 - current
        for o in range(columns):
            scratch[into, o] = theta[offset + width * columns + o]
        for i in range(width):
            v = scratch[current, i]
            for o in range(columns):
                scratch[into, o] += v * theta[offset + i * columns + o]
        if layer < 2:
            for o in range(columns):
                z = scratch[into, o]
                scratch[into, o] = z / (np.float32(1.0) + exp32(-z))
        offset += (width + 1) * columns
        current, width = into, size
    if atoms == 1:
        for a in range(actions):
            q[a] = scratch[current, a]
        return
    step = np.float32((setting[4] - setting[3]) / (atoms - 1))
    for a in range(actions):
        total = mean = np.float32(0.0)
        top = scratch[current, a * atoms]
        for k in range(1, atoms):
            top = max(top, scratch[current, a * atoms + k])
        for k in range(atoms):
            e = exp32(scratch[current, a * atoms + k] - top)
            total += e
            mean += e * np.float32(k) * step
        q[a] = np.float32(setting[3]) + mean / total
