"""Clusters: kinds of GPU and node, the links between them, from presets or TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from tunewright.envs.parallelism.families import shown
from tunewright.errors import ConfigError, unknown
from tunewright.store.files import read_toml

MOST = 1e9  # larger numbers are mistakes
MOST_GPUS = 1_000_000  # several times the largest there are; plans and simulators make an entry for each
_PRESETS = Path(__file__).with_name("presets") / "clusters.toml"


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Nodes of one kind.

    Attributes:
        kind: name of the preset.
        gpu: name of the GPU.
        gpus: GPUs of this kind in the cluster.
        per_node: GPUs that the fast link connects.
        bf16_tflops, fp8_tflops: peak of a GPU, dense [TFLOP/s].
        memory_gb: of a GPU [10^9 bytes].
        memory_gb_s: its bandwidth [GB/s].
        link_gb_s: between GPUs of a node, one way [GB/s].
        fabric_gb_s: between nodes, of one GPU, one way [GB/s].
        host_gb_s: to the host's memory [GB/s].
        watts: of a busy GPU with its share of nothing else [W].
        dollars_hour: price of a GPU.
        source: where the numbers are from.
    """

    kind: str
    gpu: str
    gpus: int
    per_node: int
    bf16_tflops: float
    fp8_tflops: float
    memory_gb: float
    memory_gb_s: float
    link_gb_s: float
    fabric_gb_s: float
    host_gb_s: float
    watts: float
    dollars_hour: float
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One or several kinds of nodes.

    Attributes:
        name: for people.
        groups: nodes of each kind.
        between_gb_s: link between kinds, of one GPU [GB/s]; the slowest fabric if it is not given.
    """

    name: str
    groups: tuple[Nodes, ...]
    between_gb_s: float

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return sum(g.gpus for g in self.groups)

    @property
    def uniform(self) -> bool:
        """Whether all nodes are of one kind."""
        return len(self.groups) == 1

    @property
    def nodes(self) -> Nodes:
        """The only kind of nodes.

        Raises:
            ConfigError: there are several.
        """
        if not self.uniform:
            raise ConfigError(
                f"cluster {self.name} has {len(self.groups)} kinds of nodes; this needs one kind, such as"
                f" {self.groups[0].kind}:{self.groups[0].gpus}"
            )
        return self.groups[0]


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Return the presets as they stand in the file."""
    return tomllib.loads(_PRESETS.read_text(encoding="utf-8"))


def load(text: str) -> Cluster:
    """Return a cluster by ``KIND:GPUS``, several of them joined by ``+``, or by the path of a TOML file.

    >>> load("h100:2048").gpus
    2048
    >>> [g.kind for g in load("h100:64+a100:64").groups]
    ['h100', 'a100']

    Raises:
        ConfigError: the text or the file cannot be read.
        UnknownNameError: there is no such kind of node.
    """
    path = Path(text)
    if path.suffix == ".toml":
        return _from_file(path)
    groups = []
    for part in text.split("+"):
        kind, _, count = part.strip().partition(":")
        if kind not in presets():
            raise unknown("kind of node", kind, list(presets()), plural="Give a TOML file, or one of")
        if not re.fullmatch(r"[1-9][0-9]{0,6}", count) or int(count) > MOST_GPUS:
            raise ConfigError(f"say how many GPUs, 1 to {MOST_GPUS:,}: {kind}:64, not {shown(part)}")
        groups.append(_nodes(kind, {"gpus": int(count)}, text))
    return Cluster(name=text, groups=tuple(groups), between_gb_s=min(g.fabric_gb_s for g in groups))


def _from_file(path: Path) -> Cluster:
    data = read_toml(path, "cluster description")
    for key in data:
        if key not in ("name", "node", "between_gb_s"):
            raise unknown(f"key in {path}", key, ("name", "node", "between_gb_s"))
    entries = data.get("node")
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise ConfigError(f'{path} needs at least one [[node]] table, such as: kind = "h100" and gpus = 64')
    groups = [_nodes(e.get("kind", f"node{k}"), e, f"{path}, [[node]] {k}") for k, e in enumerate(entries, 1)]
    between = data.get("between_gb_s", min(g.fabric_gb_s for g in groups))
    if not isinstance(between, int | float) or isinstance(between, bool) or not 0 < between <= MOST:
        raise ConfigError(
            f"{path}: between_gb_s must be a number above 0 and at most {MOST:,.0f}, not {shown(between)}"
        )
    return Cluster(name=str(data.get("name", path.stem)), groups=tuple(groups), between_gb_s=float(between))


def _nodes(kind: str, given: Mapping[str, Any], where: str) -> Nodes:
    known = {f.name: f.type for f in fields(Nodes)}
    for key in given:
        if key not in known:
            raise unknown(f"key in {where}", key, list(known))
    values = {"kind": kind, "gpu": kind, **(presets().get(kind, {}) if isinstance(kind, str) else {}), **given}
    missing = [n for n in known if n not in values and n != "source"]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing; give them, or a kind of: {', '.join(presets())}")
    for name, kind_of in known.items():
        value = values.get(name, "")
        whole = kind_of == "int"
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        most = MOST_GPUS if whole else MOST
        if kind_of == "str" and not isinstance(value, str):
            raise ConfigError(f"{where}: {name} must be a text, not {shown(value)}")
        if kind_of != "str" and not (number and 0 < value <= most):
            raise ConfigError(
                f"{where}: {name} must be a {'whole ' if whole else ''}number above 0 and at most {most:,.0f}, not"
                f" {shown(value)}"
            )
    return Nodes(**values)
