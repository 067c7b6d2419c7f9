"""Batch normalisation that equals PyTorch's in both modes, on one device or many."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float


class _Statistics(NamedTuple):
    """Of one batch: per channel `mean` and biased `var`, over `n` values each."""

    mean: Array
    var: Array
    n: Array | int


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the last, as PyTorch's `BatchNorm2d` computes it.

    Flax's own differs in the running variance, for which PyTorch takes the unbiased variance of
    the batch (n/(n-1)) although it normalises with the biased one.

    Statistics are computed in float32 at least, whatever the type of the input; the output has
    the input's type.

    Attributes:
        epsilon: added to the variance.
        momentum: how far the running statistics move towards the batch's at each training pass.
        axis_name: mapped axis over which the batch is spread; its devices share their statistics.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *positions channels"], *, train: bool, real: Bool[Array, " batch"] | None = None
    ) -> Float[Array, "batch *positions channels"]:
        """Normalise `x`, with the batch's statistics in training and the running ones otherwise.

        Args:
            x: features.
            train: whether to use the batch's statistics and to move the running ones.
            real: examples that count; the others are padding and enter no statistic. All if None.
                Where no example counts, the running statistics stand in and do not move.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)

        given = x.dtype
        x = x.astype(jnp.promote_types(given, jnp.float32))
        if not train:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            channels_last = (*(1,) * (x.ndim - 1), -1)
            running, factor, bias = (v.reshape(channels_last) for v in (running_mean.value, factor, bias))
            return ((x - running) * factor + bias).astype(given)

        batch = self._batch_statistics(x, real)
        mean, var = batch.mean, batch.var
        if not self.is_initializing():
            unbiased = var * (batch.n / jnp.maximum(batch.n - 1, 1))
            moved_mean = running_mean.value + self.momentum * (mean - running_mean.value)
            moved_var = running_var.value + self.momentum * (unbiased - running_var.value)
            if real is not None:
                some = batch.n > 0
                mean, var = jnp.where(some, mean, running_mean.value), jnp.where(some, var, running_var.value)
                moved_mean = jnp.where(some, moved_mean, running_mean.value)
                moved_var = jnp.where(some, moved_var, running_var.value)
            running_mean.value, running_var.value = moved_mean, moved_var
        factor = scale * lax.rsqrt(var + self.epsilon)
        normalised = (x - _spread(mean, x)) * _spread(factor, x) + _spread(bias, x)
        return normalised.astype(given)

    def _batch_statistics(self, x: Array, real: Array | None) -> _Statistics:
        positions = x.size // (x.shape[0] * x.shape[-1])
        shared = self.axis_name is not None and not self.is_initializing()
        if real is None:
            count: Array | int = x.shape[0] * positions * (lax.axis_size(self.axis_name) if shared else 1)
            divisor = count
        else:
            count = real.sum() * positions
            count = lax.psum(count, self.axis_name) if shared else count
            divisor = jnp.maximum(count, 1)

        def mean_of(values: Array) -> Array:
            if real is not None:
                values = jnp.where(real.reshape(-1, *(1,) * (x.ndim - 1)), values, 0)
            total = _channel_sums(values)
            return (lax.psum(total, self.axis_name) if shared else total) / divisor

        mean = mean_of(x)
        return _Statistics(mean, mean_of(jnp.square(x - _spread(mean, x))), count)


def _channel_sums(x: Array) -> Array:
    """Sum over all axes but the last: over the batch first, which CPUs do several times faster.

    The barrier keeps XLA from making one reduction of the two.
    """
    over_batch = lax.optimization_barrier(x.sum(0))
    return over_batch.sum(tuple(range(x.ndim - 2)))


def _spread(values: Array, x: Array) -> Array:
    """Give per-channel values all axes of `x` but the batch, so that gradients too are summed as in `_channel_sums`."""
    spread = lax.optimization_barrier(jnp.broadcast_to(values.reshape(*(1,) * (x.ndim - 2), -1), x.shape[1:]))
    return spread[None]
