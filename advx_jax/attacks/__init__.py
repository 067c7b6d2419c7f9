"""Attacks over any function from images to logits: the paper's loop, minimum norms, and fixed budgets."""

from advx_jax.attacks.apgd import apgd_attack, targeted_apgd_attack
from advx_jax.attacks.autoattack import autoattack
from advx_jax.attacks.best import BEST
from advx_jax.attacks.bounded import bounded_attack, targeted_attack
from advx_jax.attacks.budget import Budget, Found
from advx_jax.attacks.chain import Chain, minimise_norm
from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, UNTIL_RANDOM, UNTIL_TARGET, Criterion
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.fab import FABResult, fab_attack, targeted_fab_attack
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.loop import AttackResult, AttackSettings
from advx_jax.attacks.minimum_norm import better_than_random_attack, minimum_norm_attack
from advx_jax.attacks.pgd import pgd_attack
from advx_jax.attacks.search import SearchResult
from advx_jax.attacks.square import square_attack

__all__ = [
    "BEST",
    "DDN",
    "FMN",
    "UNTIL_MISCLASSIFIED",
    "UNTIL_RANDOM",
    "UNTIL_TARGET",
    "AttackResult",
    "AttackSettings",
    "Budget",
    "Chain",
    "Criterion",
    "FABResult",
    "Found",
    "SearchResult",
    "apgd_attack",
    "autoattack",
    "better_than_random_attack",
    "bounded_attack",
    "fab_attack",
    "minimise_norm",
    "minimum_norm_attack",
    "pgd_attack",
    "square_attack",
    "targeted_apgd_attack",
    "targeted_attack",
    "targeted_fab_attack",
]
