"""Gymnasium environments and the targets behind them; importing this registers the environments.

Gymnasium takes long to import, and the command line does not need it. So where it is not loaded yet, the environments
are registered when it is.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register() -> None:
    """Register the environments with Gymnasium."""
    import gymnasium

    gymnasium.register(id="tunewright/Tuning-v0", entry_point="tunewright.envs.tuning:TuningEnv")
    gymnasium.register(id="tunewright/TuningFamily-v0", entry_point="tunewright.envs.family:TuningFamilyEnv")
    hybrid = "tunewright.envs.storage.hybrid"
    gymnasium.register(
        id="tunewright/HybridPlacement-v0",
        entry_point=f"{hybrid}.env:PlacementEnv",
        vector_entry_point=f"{hybrid}.vector:PlacementVectorEnv",
    )
    gymnasium.register(id="tunewright/HybridMigration-v0", entry_point=f"{hybrid}.env:MigrationEnv")
    gymnasium.register(id="tunewright/TrainPlan-v0", entry_point="tunewright.envs.parallelism.env:TrainPlanEnv")
    gymnasium.register(id="tunewright/ServePlan-v0", entry_point="tunewright.envs.parallelism.env:ServePlanEnv")
    for name, place, kind in (
        ("Serving", "serving", "Serving"),
        ("SparkScheduling", "spark", "Spark"),
        ("ClusterScheduling", "cluster", "Cluster"),
    ):
        gymnasium.register(
            id=f"tunewright/{name}-v0",
            entry_point=f"tunewright.envs.scheduling.{place}.env:{kind}Env",
            vector_entry_point=f"tunewright.envs.scheduling.{place}.env:{kind}VectorEnv",
        )


class _OnceGymnasiumIsLoaded(MetaPathFinder):
    """Registers the environments at the end of the first import of Gymnasium."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "gymnasium" in sys.modules:
    register()
else:
    sys.meta_path.insert(0, _OnceGymnasiumIsLoaded())
