"""Swaps of values, where the fewest values that do are known, and beside σ-zero, with which they begin."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from advx_jax.attacks import SigmaZero, SigmaZeroSwaps

SHAPE, N, STEPS = (8, 8, 3), 6, 100
KEY = jax.random.key(0)
IMAGES = jax.random.uniform(jax.random.fold_in(KEY, 0), (N, *SHAPE))
WEIGHTS = jax.random.normal(jax.random.fold_in(KEY, 1), SHAPE)
LABELS = np.zeros(N, np.int32)
FAR = 12.0


def linear(images):
    """Every image is so far on the label's side that it takes several values to get to the other one."""
    own = FAR + ((images - IMAGES.mean()) * WEIGHTS).sum((1, 2, 3))
    return jnp.stack([own, jnp.zeros_like(own)], -1)


def fewest(images):
    """How many values lead to the other side: those that lead farthest come first."""
    gains = np.where(WEIGHTS > 0, images, 1 - images) * np.abs(WEIGHTS)
    led = np.cumsum(-np.sort(-gains.reshape(N, -1)), axis=1)
    margins = np.asarray(linear(images))[:, 0]
    return (led < margins[:, None]).sum(1) + 1


def found(attack):
    return jax.jit(lambda images: attack(linear, images, LABELS))(IMAGES)


def test_swaps_end_at_the_fewest_values_of_a_linear_network():
    result = found(SigmaZeroSwaps(steps=STEPS))
    np.testing.assert_array_equal(result.norm, fewest(IMAGES))
    assert (fewest(IMAGES) > 3).all()


def test_swaps_never_lose_what_their_beginning_found():
    swaps = SigmaZeroSwaps(steps=STEPS)
    beginning = found(SigmaZero(steps=swaps.descent_steps))
    assert (beginning.norm > fewest(IMAGES)).any()
    assert (found(swaps).norm <= beginning.norm).all()


def test_values_moved_back_rest_longer_than_values_moved():
    attack, labels = SigmaZeroSwaps(steps=STEPS), jnp.asarray(LABELS)

    def stepped(state, _):
        following = attack.step(linear, IMAGES, labels, state)
        return following, following.perturbation != 0

    moved = jax.jit(lambda images: jax.lax.scan(stepped, attack.init(linear, images, labels, None), length=STEPS)[1])
    swapped = np.asarray(moved(IMAGES))[attack.descent_steps + 1 :].reshape(-1, IMAGES.size)
    stays = {True: [], False: []}
    for value in swapped.T:
        for begin, end in itertools.pairwise(np.flatnonzero(np.diff(value))):
            stays[bool(value[end])].append(end - begin)
    assert (min(stays[True]), min(stays[False])) == (3, 10)
