"""Gymnasium environments and the targets behind them; importing this registers the environments."""

import gymnasium

gymnasium.register(id="tunewright/Tuning-v0", entry_point="tunewright.envs.tuning:TuningEnv")
