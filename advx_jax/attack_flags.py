"""Flags that the commands which attack share, and the settings that they make."""

import dataclasses

from absl import flags

from advx_jax.attacks import AttackSettings
from advx_jax.errors import UserError

OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace results made with other settings.")
_DIRECTION = flags.DEFINE_enum(
    "direction",
    "cross_entropy",
    ["cross_entropy", "scale_free"],
    "Gradient to follow: as published, or one that saturated networks cannot make vanish.",
)
_STAY_IN_RANGE = flags.DEFINE_boolean(
    "stay_in_range", False, "Keep perturbed images in [0,1], as other benchmarks do and the paper does not."
)


def attack_settings(published: AttackSettings, eps: float, steps: int, momentum: float = 0.0) -> AttackSettings:
    """The published settings, changed as the flags say.

    Raises:
        UserError: a value is out of its range; the flag is named.
    """
    if not 0 < eps < float("inf"):
        raise UserError(f"expected --eps above 0, got {eps}")
    if steps < 1:
        raise UserError(f"expected --steps of at least 1, got {steps}")
    if not 0 <= momentum < 1:
        raise UserError(f"expected --momentum of at least 0 and below 1, got {momentum}")
    return dataclasses.replace(
        published,
        eps=eps,
        steps=steps,
        momentum=momentum,
        direction=_DIRECTION.value,
        stay_in_range=_STAY_IN_RANGE.value,
    )
