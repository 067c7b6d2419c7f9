"""Levels of confidence intervals."""

from advx_jax.errors import UserError


def ends_at(level: float) -> tuple[float, float]:
    """Shares of a distribution that lie below an interval and below its upper end, as much outside on either side.

    Args:
        level: share inside.

    Raises:
        UserError: it is none.
    """
    if not 0 < level < 1:
        raise UserError(f"expected a level above 0 and below 1, got {level}")
    return (1 - level) / 2, (1 + level) / 2
