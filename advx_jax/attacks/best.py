"""The strongest minimum-norm attacks here for 200 gradients an image, by norm: mostly several that fail apart.

Chosen on images of the test set's second half: see docs/minimum_norm.md.
"""

from advx_jax.attacks.ensemble import SmallestSuccess
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.steep_fmn import SteepFMN
from advx_jax.attacks.swaps import SigmaZeroSwaps

BEST = SmallestSuccess(title="best", attacks=(FMN(), FMN(climb="log_odds", relative=True)))
"""FMN as published, then FMN that climbs the log odds by steps in proportion to the radius; the smaller success counts.

The first follows one rival class at a time and is the stronger one on networks with the robustness additions, the
second on ReLU networks, where the published step lengths are far larger than the distances.
"""

_L1 = (SteepFMN(steps=68, inertia=1.0), SteepFMN(steps=66), SteepFMN(steps=66, inertia=1.0, climb="log_odds"))
_L0 = (SigmaZeroSwaps(steps=100), SigmaZeroSwaps(steps=100, first_threshold=0.1, threshold_rate=0.03))
_LINF = (SteepFMN(steps=68), FMN(steps=66), FMN(steps=66, climb="log_odds", relative=True))

BEST_OF: dict[str, SmallestSuccess] = {
    "L0": SmallestSuccess(title="best", attacks=_L0),
    "L1": SmallestSuccess(title="best", attacks=_L1).with_settings(norm="L1"),
    "L2": BEST,
    "Linf": SmallestSuccess(title="best", attacks=_LINF).with_settings(norm="Linf"),
}
"""By the norm that is minimised: for L0 swaps of values after two different beginnings of σ-zero; for L1 sparse steps
without and with momentum, which end in different places, and on the log odds, which leads nearer on ReLU networks; for
L∞ steep steps with momentum before the two forms for L2.
"""
