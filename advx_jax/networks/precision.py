"""In how many digits convolutions multiply, by the names that people give them."""

from typing import Literal

from jax import lax

InferenceDtype = Literal["float32", "tensorfloat32"]
"""What networks in evaluation mode are computed in: true float32; or products of fewer digits, of 10 bits on NVIDIA
GPUs and of three bfloat16 products on TPUs. CPUs compute float32 either way."""


def product_precision(compute_dtype: str) -> lax.Precision:
    """Precision of the convolutions' products, which matters on accelerators only.

    Args:
        compute_dtype: "tensorfloat32", or another one, whose products are exact.
    """
    return lax.Precision.HIGH if compute_dtype == "tensorfloat32" else lax.Precision.HIGHEST
