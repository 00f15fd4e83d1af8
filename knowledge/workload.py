"""What kind of workload a text speaks of: features that rules can be tied to, instead of names of applications."""

from __future__ import annotations

import re

#: feature to the pattern that shows it
FEATURES = {
    "metadata": r"\bmd(?!l)|metadata|many files|mdtest|small files",
    "sequential": r"sequential|in order|\bscan|append|stream|bursts? of large|analytic|\b\d+m\b|MiB in order|"
    r"objects of \d+ MiB",
    "random": r"random|point|zipf|keys",
    "large": r"\b\d+ ?m(i?b)?\b|large|bulk",
    "small": r"\b\d{1,2} ?k(i?b)?\b|small|point|one-statement|transaction",
    "shared": r"shared file|one shared|to a few shared|\bior\b",
    "writes": r"writ|update|insert|append|TPC-B|tpc-b|mixed|load|create|bursts",
    "reads": r"read|quer|lookup|select|scan|search",
    "sorts": r"sort|analytic|aggregate|join|group",
    "replay": r"looked up",
}


def traits(about: str) -> frozenset[str]:
    """Return what a workload's name and description, or the facts of a trace, say of it.

    >>> sorted(traits("ior-16m: IOR, 16 MiB in order in one shared file, write then read"))
    ['large', 'reads', 'sequential', 'shared', 'writes']
    """
    return frozenset(name for name, pattern in FEATURES.items() if re.search(pattern, about, re.I))


def likeness(a: frozenset[str], b: frozenset[str]) -> float:
    """Return how alike two sets of features are: shared ones over all, 0 to 1.

    >>> likeness(frozenset({"large", "writes"}), frozenset({"large", "reads"}))
    0.3333333333333333
    """
    return len(a & b) / len(a | b) if a | b else 0.0
