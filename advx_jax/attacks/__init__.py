"""The paper's attack loop and the attacks built on it, and other minimum-norm attacks, over any function to logits."""

from advx_jax.attacks.best import BEST
from advx_jax.attacks.bounded import bounded_attack, targeted_attack
from advx_jax.attacks.chain import Chain, minimise_norm
from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, UNTIL_RANDOM, UNTIL_TARGET, Criterion
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.loop import AttackResult, AttackSettings
from advx_jax.attacks.minimum_norm import better_than_random_attack, minimum_norm_attack
from advx_jax.attacks.search import SearchResult

__all__ = [
    "BEST",
    "DDN",
    "FMN",
    "UNTIL_MISCLASSIFIED",
    "UNTIL_RANDOM",
    "UNTIL_TARGET",
    "AttackResult",
    "AttackSettings",
    "Chain",
    "Criterion",
    "SearchResult",
    "better_than_random_attack",
    "bounded_attack",
    "minimise_norm",
    "minimum_norm_attack",
    "targeted_attack",
]
