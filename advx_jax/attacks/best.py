"""The strongest L2 minimum-norm attack here for 200 gradients an image: two attacks that fail on different images."""

from advx_jax.attacks.ensemble import SmallestSuccess
from advx_jax.attacks.fmn import FMN

BEST = SmallestSuccess(title="best", attacks=(FMN(), FMN(climb="log_odds", relative=True)))
"""FMN as published, then FMN that climbs the log odds by steps in proportion to the radius; the smaller success counts.

The first follows one rival class at a time and is the stronger one on networks with the robustness additions, the
second on ReLU networks, where the published step lengths are far larger than the distances.
"""
