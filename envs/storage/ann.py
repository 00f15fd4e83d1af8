"""Approximate nearest-neighbour search with FAISS: graph (HNSW) and inverted-file (IVF) indexes.

A conditional space: each family has parameters of its own. Maximise queries per second while recall@10 keeps
its bound; memory is the second objective. Vectors are a seeded mixture of Gaussians; recall is counted against
exact search.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.sessions import workfolder
from tunewright.space import Choice, Config, Int, Space
from tunewright.target import BaseTarget, Budget, Measurement, Metric, numeric_options

NEEDS = {"faiss": "ann"}
_WORKLOADS = {
    "clustered": "vectors in 200 clusters that overlap, queries like the vectors",
    "uniform": "vectors without structure: the hard case",
}
_SIZES = {"vectors": 20_000, "dimensions": 64, "queries": 1000}
_K, _REPEAT_S = 10, 0.5
_OPTIONS = {name: f"number of {name} ({number})" for name, number in _SIZES.items()}


def open_target(argument: str, options: Mapping[str, str]) -> ANNTarget:
    """Entry point; options ``vectors``, ``dimensions`` and ``queries``."""
    if argument:
        raise ConfigError(f"target 'ann' takes no argument, not {argument!r}")
    sizes = numeric_options("ann", options, _SIZES)
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise missing_extra("faiss-cpu", "ann", "target 'ann'") from None
    return ANNTarget(**sizes)


class ANNTarget(BaseTarget):
    """Approximate nearest-neighbour search with FAISS: graph (HNSW) and inverted-file (IVF) indexes.

    Args:
        vectors: number of vectors, at least 1000.
        dimensions: length of each, a multiple of 8 for product quantisation.
        queries: queries of one batch.
    """

    name = "ann"
    workloads = _WORKLOADS
    options = _OPTIONS
    metrics = (
        Metric(
            name="qps",
            direction="max",
            unit="queries/s",
            doc="batched search on all threads of the configuration",
        ),
        Metric(name="memory", direction="min", unit="MiB", doc="size of the serialised index"),
        Metric(
            name="recall_at_10",
            direction="max",
            doc="share of the true ten nearest that are found",
            at_least=0.95,
        ),
        Metric(name="build", direction="min", unit="s", doc="time to train and fill the index"),
    )
    manual = "https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index"

    def __init__(self, *, vectors: int = 20_000, dimensions: int = 64, queries: int = 1000) -> None:
        if vectors < 1000 or queries < 10 or dimensions < 8 or dimensions % 8:
            raise ConfigError("ann needs vectors >= 1000, queries >= 10 and dimensions a multiple of 8")
        self.vectors, self.dimensions, self.queries = vectors, dimensions, queries
        self.facts = {"vectors": vectors, "dimensions": dimensions, "queries": queries, "N_VECTORS": vectors}
        hnsw, ivf = "family == 'hnsw'", "family == 'ivf'"
        self.space = Space([
            Choice(name="family", choices=("hnsw", "ivf"), default="hnsw", restart="rebuild",
                   doc="Graph or inverted file."),
            Int(name="m", low=4, high=64, default=32, log=True, when=hnsw, restart="rebuild",
                doc="Neighbours of a node."),
            Int(name="ef_construction", low=8, high=400, default=40, log=True, when=hnsw, restart="rebuild",
                doc="Candidates while building."),
            Int(name="ef_search", low=10, high=512, default=64, log=True, when=hnsw, doc="Candidates while searching."),
            Int(name="nlist", low=4, high="min(4096, N_VECTORS // 39)", default=128, log=True, when=ivf,
                restart="rebuild", doc="Inverted lists."),
            Int(name="nprobe", low=1, high="nlist", default=16, log=True, when=ivf, doc="Lists searched."),
            Choice(name="coding", choices=("flat", "sq8", "sq6", "pq8", "pq16"), default="flat", when=ivf,
                   restart="rebuild",
                   doc="How vectors are stored: whole, scalar quantised, or product quantised with so many bytes."),
            Choice(name="hnsw_coding", choices=("flat", "sq8"), default="flat", when=hnsw, restart="rebuild",
                   doc="How vectors are stored."),
            Int(name="threads", low=1, high="CPU_COUNT", default=_cpus(), doc="Search threads."),
        ], facts={"N_VECTORS": vectors})  # fmt: skip

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Draw the vectors and compute the exact neighbours."""
        folder = workfolder.private(budget.workdir, self.name)
        path = folder / f"{workload}-{seed}-{self.vectors}-{self.dimensions}-{self.queries}.npz"
        if not path.exists():
            import faiss

            base, queries = self._draw(workload, seed)
            exact = faiss.IndexFlatL2(self.dimensions)
            exact.add(base)
            _, truth = exact.search(queries, _K)
            unfinished = path.with_suffix(f".{os.getpid()}.tmp.npz")
            np.savez(unfinished, base=base, queries=queries, truth=truth)
            os.replace(unfinished, path)
        return {"file": str(path)}

    def cleanup(self, workdir: Path) -> None:
        """Remove the vectors."""
        workfolder.remove(workdir, self.name)

    def _draw(self, workload: str, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng, size = np.random.default_rng(seed), self.vectors + self.queries
        points = rng.normal(size=(size, self.dimensions))
        if workload == "clustered":
            centres = rng.normal(size=(200, self.dimensions))
            points = centres[rng.integers(200, size=size)] + 0.8 * points
        single = points.astype(np.float32)
        return single[: self.vectors], single[self.vectors :]

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Build the index, search all queries repeatedly, and count what was found."""
        import faiss

        path = Path(budget.prepared["file"])
        if not path.exists():
            raise TargetError(f"the prepared vectors {path} are gone; start the session again")
        with np.load(path) as data:
            base, queries, truth = data["base"], data["queries"], data["truth"]
        faiss.omp_set_num_threads(_cpus())
        begun = time.perf_counter()
        try:
            index = _build(faiss, config, base)
        except RuntimeError as error:
            return Measurement(status="failed", reason=f"FAISS: {str(error).strip().splitlines()[-1]}")
        build = time.perf_counter() - begun
        faiss.omp_set_num_threads(config["threads"])
        _, nearest = index.search(queries, _K)  # warm-up, and the answer that is judged
        rounds, spent = 0, 0.0
        while spent < _REPEAT_S:  # whole batches: the work of each is fixed
            begun = time.perf_counter()
            index.search(queries, _K)
            spent += time.perf_counter() - begun
            rounds += 1
        hits = (nearest[:, :, None] == truth[:, None, :]).any(axis=1).mean()
        return Measurement(values={
            "qps": rounds * len(queries) / spent,
            "memory": len(faiss.serialize_index(index)) / 2**20,
            "recall_at_10": float(hits),
            "build": build,
        })  # fmt: skip

    def render(self, config: Config) -> str:
        """Return FAISS's factory string and search parameters."""
        if config["family"] == "hnsw":
            store = {"flat": "Flat", "sq8": "SQ8"}[config["hnsw_coding"]]
            return (
                f'index = faiss.index_factory({self.dimensions}, "HNSW{config["m"]},{store}")\n'
                f"index.hnsw.efConstruction = {config['ef_construction']}\n"
                f"index.hnsw.efSearch = {config['ef_search']}\n"
                f"faiss.omp_set_num_threads({config['threads']})"
            )
        return (
            f'index = faiss.index_factory({self.dimensions}, "IVF{config["nlist"]},{_CODES[config["coding"]]}")\n'
            f"index.nprobe = {config['nprobe']}\nfaiss.omp_set_num_threads({config['threads']})"
        )


_CODES = {"flat": "Flat", "sq8": "SQ8", "sq6": "SQ6", "pq8": "PQ8", "pq16": "PQ16"}


def _cpus() -> int:
    from tunewright.space.facts import machine_facts

    return int(machine_facts()["CPU_COUNT"])


def _build(faiss: Any, config: Config, base: NDArray[np.float32]) -> Any:
    dimensions = base.shape[1]
    if config["family"] == "hnsw":
        if config["hnsw_coding"] == "flat":
            index = faiss.IndexHNSWFlat(dimensions, config["m"])
        else:
            index = faiss.IndexHNSWSQ(dimensions, faiss.ScalarQuantizer.QT_8bit, config["m"])
        index.hnsw.efConstruction = config["ef_construction"]
        index.hnsw.efSearch = config["ef_search"]
    else:
        index = faiss.index_factory(dimensions, f"IVF{config['nlist']},{_CODES[config['coding']]}")
        index.nprobe = config["nprobe"]
        if config["coding"].startswith("pq"):
            index.pq.cp.niter = 8  # a third of FAISS's default: training would take longer than everything else
    if not index.is_trained:
        index.train(base)
    index.add(base)
    return index
