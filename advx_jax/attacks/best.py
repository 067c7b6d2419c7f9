"""The strongest minimum-norm attacks here for 200 gradients an image, by norm: mostly two that fail apart."""

from advx_jax.attacks.ensemble import SmallestSuccess
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.sigma_zero import SigmaZero

BEST = SmallestSuccess(title="best", attacks=(FMN(), FMN(climb="log_odds", relative=True)))
"""FMN as published, then FMN that climbs the log odds by steps in proportion to the radius; the smaller success counts.

The first follows one rival class at a time and is the stronger one on networks with the robustness additions, the
second on ReLU networks, where the published step lengths are far larger than the distances.
"""

BEST_OF: dict[str, SmallestSuccess] = {
    "L0": SmallestSuccess(title="best", attacks=(SigmaZero(steps=200),)),
    "L1": BEST.with_settings(norm="L1"),
    "L2": BEST,
    "Linf": BEST.with_settings(norm="Linf"),
}
"""By the norm that is minimised: for L0 σ-zero alone, for the others two forms of FMN."""
