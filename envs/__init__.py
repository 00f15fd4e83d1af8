"""Gymnasium environments and the targets behind them; importing this registers the environments."""

import gymnasium

gymnasium.register(id="tunewright/Tuning-v0", entry_point="tunewright.envs.tuning:TuningEnv")
_HYBRID = "tunewright.envs.storage.hybrid"
gymnasium.register(
    id="tunewright/HybridPlacement-v0",
    entry_point=f"{_HYBRID}.env:PlacementEnv",
    vector_entry_point=f"{_HYBRID}.vector:PlacementVectorEnv",
)
gymnasium.register(id="tunewright/HybridMigration-v0", entry_point=f"{_HYBRID}.env:MigrationEnv")
gymnasium.register(id="tunewright/TrainPlan-v0", entry_point="tunewright.envs.parallelism.env:TrainPlanEnv")
gymnasium.register(id="tunewright/ServePlan-v0", entry_point="tunewright.envs.parallelism.env:ServePlanEnv")
_SCHEDULING = "tunewright.envs.scheduling"
gymnasium.register(
    id="tunewright/Serving-v0",
    entry_point=f"{_SCHEDULING}.serving.env:ServingEnv",
    vector_entry_point=f"{_SCHEDULING}.serving.env:ServingVectorEnv",
)
