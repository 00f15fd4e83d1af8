"""Serving plans."""

from __future__ import annotations

from typing import Any

import numpy as np


def unknown_batch(concurrency: Any, power: float, scale: float) -> Any:
    """Sequences of one worker where a table says the concurrency but not the number of workers; fitted."""
    return np.maximum(concurrency**power * scale, 1.0)


def first_token_s(prefill_s: Any, step_s: Any, others: Any, stack: Any) -> Any:
    """Return the mean time to the first token in a closed loop.

    Args:
        prefill_s: time of computing the prompt alone.
        step_s: time of an output token.
        others: requests that run at once, this one included.
        stack: ``Stack``, whose constants say how many steps, and what share of the others' prefills, a request waits for.
    """
    wave = prefill_s * np.maximum(others - 1.0, 0.0) * stack.wave * (others / 64.0) ** stack.wave_power
    return stack.first_prefill * prefill_s + stack.first_steps * step_s + stack.first_s + wave
