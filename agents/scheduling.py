"""A policy network for choosing among candidates: one scorer for all of them, after Decima (SIGCOMM 2019).

A plain network has to learn the same rule anew for each place in the list of candidates; here every candidate's
features go, with the state of the whole, through the same weights. Used with sb3-contrib's MaskablePPO.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tunewright.errors import missing_extra


def candidate_policy(candidates: int, features: int, world: int, each: int, width: int = 48) -> Any:
    """Return a policy class for MaskablePPO.

    Args:
        candidates, features: the observation begins with so many candidates of so many numbers; the first number says
            whether there is one.
        world: numbers after these.
        each: actions of a candidate.
        width: of hidden layers.

    Raises:
        MissingExtraError: torch or sb3-contrib is not installed.
    """
    try:
        import torch
        from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
        from torch import nn
    except ImportError:
        raise missing_extra("sb3-contrib", "rl", "training a scheduling agent") from None

    class Scorer(nn.Module):
        """Scores of all actions, and what the critic looks at."""

        def __init__(self) -> None:
            super().__init__()
            self.latent_dim_pi, self.latent_dim_vf = candidates * each, width + world
            self.embed = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            self.score = nn.Sequential(nn.Linear(2 * width + world, width), nn.ReLU(), nn.Linear(width, each))
            self.value = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())

        def split(self, seen: Any) -> tuple[Any, Any, Any]:
            listed = seen[:, : candidates * features].reshape(-1, candidates, features)
            return listed, listed[:, :, :1], seen[:, candidates * features :]

        def forward_actor(self, seen: Any) -> Any:
            listed, here, rest = self.split(seen)
            made = self.embed(listed) * here
            total = (made.sum(1, keepdim=True) / here.sum(1, keepdim=True).clamp(min=1)).expand_as(made)
            around = rest[:, None].expand(-1, candidates, -1)
            return self.score(torch.cat([made, total, around], 2)).flatten(1)

        def forward_critic(self, seen: Any) -> Any:
            listed, here, rest = self.split(seen)
            return torch.cat([(self.value(listed) * here).sum(1) / candidates**0.5, rest], 1)

        def forward(self, seen: Any) -> tuple[Any, Any]:
            return self.forward_actor(seen), self.forward_critic(seen)

    class CandidatePolicy(MaskableActorCriticPolicy):
        """The scores are the logits, and the critic has one more layer.

        Attributes:
            arguments: what it was made with; an agent's file keeps these, and the class is made anew from them.
        """

        arguments: ClassVar[dict[str, int]] = {
            "candidates": candidates, "features": features, "world": world, "each": each, "width": width,
        }  # fmt: skip

        def _build_mlp_extractor(self) -> None:
            self.mlp_extractor: Any = Scorer().to(self.device)

        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.action_net = nn.Identity()
            self.value_net: Any = nn.Sequential(nn.Linear(width + world, width), nn.ReLU(), nn.Linear(width, 1)).to(
                self.device
            )
            self.optimizer = self.optimizer_class(self.parameters(), **{"lr": lr_schedule(1), **self.optimizer_kwargs})

    return CandidatePolicy
