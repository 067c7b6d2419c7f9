"""Attacks on any function from images to logits, all with one contract (`Attack`) and one result (`AttackResult`)."""

from advx_jax.attacks.alma import ALMA
from advx_jax.attacks.apgd import APGD, APGDT
from advx_jax.attacks.apgd_phases import PhasedAPGD, PhasedAPGDT
from advx_jax.attacks.autoattack import AutoAttack
from advx_jax.attacks.base import Attack, AttackResult, example_keys
from advx_jax.attacks.best import BEST
from advx_jax.attacks.carlini_wagner import CarliniWagner
from advx_jax.attacks.criteria import Criterion, Misclassified, NoBetterThanRandom, Targeted
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.deepfool import DeepFool, SuperDeepFool
from advx_jax.attacks.ensemble import Ensemble, FirstSuccess, Restarted, SmallestSuccess
from advx_jax.attacks.explaining import EXPLANATIONS, ExplanationAttack
from advx_jax.attacks.fab import FAB, FABT
from advx_jax.attacks.fixed_epsilon import FixedEpsilon, RandomStart
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.frank_wolfe import FrankWolfe
from advx_jax.attacks.minimal_apgd import MinimalAPGD
from advx_jax.attacks.minimum_norm import MinimumNorm
from advx_jax.attacks.pgd import PGD
from advx_jax.attacks.primal_dual import PDGD, PDPGD
from advx_jax.attacks.published import EXPLANATION, Published, PublishedBounded
from advx_jax.attacks.sigma_zero import SigmaZero
from advx_jax.attacks.square import Square
from advx_jax.attacks.steep_fmn import SteepFMN
from advx_jax.attacks.swaps import SigmaZeroSwaps

__all__ = [
    "ALMA",
    "APGD",
    "APGDT",
    "BEST",
    "DDN",
    "EXPLANATION",
    "EXPLANATIONS",
    "FAB",
    "FABT",
    "FMN",
    "PDGD",
    "PDPGD",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "CarliniWagner",
    "Criterion",
    "DeepFool",
    "Ensemble",
    "ExplanationAttack",
    "FirstSuccess",
    "FixedEpsilon",
    "FrankWolfe",
    "MinimalAPGD",
    "MinimumNorm",
    "Misclassified",
    "NoBetterThanRandom",
    "PhasedAPGD",
    "PhasedAPGDT",
    "Published",
    "PublishedBounded",
    "RandomStart",
    "Restarted",
    "SigmaZero",
    "SigmaZeroSwaps",
    "SmallestSuccess",
    "Square",
    "SteepFMN",
    "SuperDeepFool",
    "Targeted",
    "example_keys",
]
