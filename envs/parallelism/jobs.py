"""Training jobs and parts of plans as a person names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tunewright.envs.parallelism import calibration as K
from tunewright.envs.parallelism import clusters, models, plans
from tunewright.envs.parallelism.families import shown
from tunewright.envs.parallelism.training import Job
from tunewright.errors import ConfigError


def job_of(
    model: str, cluster: str, *, global_batch: int, seq: int = 0, calibration: str = "", imbalance: float = 1.0
) -> tuple[Job, str]:
    """Return the job that names describe, and the name of the calibration.

    Raises:
        ConfigError: something is missing or impossible.
    """
    shape, nodes = models.load(model), clusters.load(cluster).nodes
    name, found = (calibration, K.calibration(calibration)) if calibration else K.of_nodes(nodes.kind)
    if not seq:
        raise ConfigError("say how long sequences are: --seq 8192")
    for what, value in (("--seq", seq), ("--global-batch", global_batch)):
        if not 1 <= value <= models.MOST:
            raise ConfigError(f"{what} must be at least 1 and at most {models.MOST:,}, not {shown(value)}")
    if not 1.0 <= imbalance <= 100.0:
        raise ConfigError(f"imbalance is the busiest expert's tokens over the mean, 1 or more, not {imbalance}")
    return Job(
        model=shape, nodes=nodes, seq=seq, global_batch=global_batch, calibration=found, imbalance=imbalance
    ), name


def fixed_of(given: Sequence[str]) -> dict[str, Any]:
    """Return what ``--fix NAME=VALUE`` sets.

    Raises:
        ConfigError: a text is no setting of a plan.
    """
    values: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--fix takes NAME=VALUE, such as tp=8, not {item!r}")
        known = getattr(plans.Plan(), name, None)
        if isinstance(known, bool):
            if text not in ("on", "off", "true", "false", "0", "1"):
                raise ConfigError(f"--fix {name} is on or off, not {text!r}")
            values[name] = text in ("on", "true", "1")
        elif isinstance(known, int):
            if not re.fullmatch(r"-?[0-9]{1,18}", text):
                raise ConfigError(f"--fix {name} takes a whole number, not {shown(text)}")
            values[name] = int(text)
        else:
            values[name] = text
    plans.plan_from(values)  # unknown names and values
    return values
