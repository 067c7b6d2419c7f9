"""Class scores of an image do not depend on what else is computed with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.networks.head import products

N = 24
# Rounding of sums of up to 512 products in float32, each 6e-8 of its size, of what is largest.
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[(8, 3), (64, 10), (64, 100), (512, 10)], ids=lambda pair: "{}x{}".format(*pair))
def factors(request):
    features, classes = request.param
    random = np.random.default_rng(0)
    return random.standard_normal((N, features), np.float32), random.standard_normal((features, classes), np.float32)


def gradient(features, kernel):
    return jax.grad(lambda features: (products(features, kernel) ** 2).sum())(features)


@pytest.mark.parametrize("function", [products, gradient])
def test_rows_do_not_depend_on_how_many_there_are(function, factors):
    features, kernel = factors
    compiled = jax.jit(function)
    whole = compiled(features, kernel)
    for n in (1, 2, 3, 5, 8, 16):
        np.testing.assert_array_equal(compiled(features[:n], kernel), whole[:n], err_msg=f"{n} rows")


def test_it_is_the_matrix_product(factors):
    features, kernel = (jnp.asarray(factor) for factor in factors)
    expected = np.asarray(features, np.float64) @ np.asarray(kernel, np.float64)
    np.testing.assert_allclose(products(features, kernel), expected, atol=TOLERANCE * np.abs(expected).max())
