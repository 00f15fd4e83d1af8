"""Gymnasium environments and the targets behind them; importing this registers the environments."""

import gymnasium

gymnasium.register(id="tunewright/Tuning-v0", entry_point="tunewright.envs.tuning:TuningEnv")
gymnasium.register(id="tunewright/TuningFamily-v0", entry_point="tunewright.envs.family:TuningFamilyEnv")
_HYBRID = "tunewright.envs.storage.hybrid"
gymnasium.register(
    id="tunewright/HybridPlacement-v0",
    entry_point=f"{_HYBRID}.env:PlacementEnv",
    vector_entry_point=f"{_HYBRID}.vector:PlacementVectorEnv",
)
gymnasium.register(id="tunewright/HybridMigration-v0", entry_point=f"{_HYBRID}.env:MigrationEnv")
gymnasium.register(id="tunewright/TrainPlan-v0", entry_point="tunewright.envs.parallelism.env:TrainPlanEnv")
gymnasium.register(id="tunewright/ServePlan-v0", entry_point="tunewright.envs.parallelism.env:ServePlanEnv")
for _name, _place, _class in (
    ("Serving", "serving", "Serving"),
    ("SparkScheduling", "spark", "Spark"),
    ("ClusterScheduling", "cluster", "Cluster"),
):
    gymnasium.register(
        id=f"tunewright/{_name}-v0",
        entry_point=f"tunewright.envs.scheduling.{_place}.env:{_class}Env",
        vector_entry_point=f"tunewright.envs.scheduling.{_place}.env:{_class}VectorEnv",
    )
