"""Batch normalisation that equals PyTorch's in both modes."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the last, as PyTorch's `BatchNorm2d` computes it.

    Flax's own differs in the running variance, for which PyTorch takes the unbiased variance of
    the batch (n/(n-1)) although it normalises with the biased one.

    Attributes:
        epsilon: added to the variance.
        momentum: how far the running statistics move towards the batch's at each training pass.
        axis_name: mapped axis over which the batch is spread; its devices share their statistics.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"], *, train: bool) -> Float[Array, "*batch channels"]:
        """Normalise `x`, with the batch's statistics in training and the running ones otherwise."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)

        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = self._across_devices(x.mean(axes))
            var = self._across_devices(jnp.square(x - mean).mean(axes))
            if not self.is_initializing():
                count = x.size // x.shape[-1] * (lax.axis_size(self.axis_name) if self.axis_name else 1)
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        factor = scale * lax.rsqrt(var + self.epsilon)
        return (x - mean) * factor + bias

    def _across_devices(self, value: Array) -> Array:
        if self.axis_name is None or self.is_initializing():
            return value
        return lax.pmean(value, self.axis_name)
