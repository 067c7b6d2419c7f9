"""The attack loop of the paper and the attacks built on it, over any function from images to logits."""

from advx_jax.attacks.bounded import bounded_attack, targeted_attack
from advx_jax.attacks.loop import AttackResult, AttackSettings
from advx_jax.attacks.minimum_norm import better_than_random_attack, minimum_norm_attack

__all__ = [
    "AttackResult",
    "AttackSettings",
    "better_than_random_attack",
    "bounded_attack",
    "minimum_norm_attack",
    "targeted_attack",
]
