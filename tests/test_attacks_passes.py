"""Passes through the model: counted in traced programs, and as the model sees them while attacks run."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax import lax
from test_attacks_properties import IMAGES, KEYS, MODEL, SHAPE, TABLE, K, labels_of

from advx_jax.attacks import FAB, PGD, DeepFool, Square
from advx_jax.attacks.passes import Passes, count_passes, marked, passes_in, steps_cost, total_passes
from advx_jax.errors import UserError


@pytest.mark.parametrize("name", TABLE)
def test_evaluations_are_the_passes_that_are_asked_for(name):
    """A gradient is a pass in each direction; what is looked at besides costs no gradient."""
    for attack in dict.fromkeys(part.attack for part in TABLE[name].parts(K)):
        passes = count_passes(attack, K, SHAPE).after(attack.n_steps)
        if isinstance(attack, Square):
            # All queries but that of the unperturbed image.
            assert (passes.forward - 1, passes.backward) == (attack.evaluations, 0)
        elif (isinstance(attack, FAB) and not attack.targeted) or isinstance(attack, DeepFool):
            assert passes.backward == K * attack.evaluations
        else:
            assert passes.backward == attack.evaluations


@pytest.mark.parametrize("name", ["fab L2", "ddn"])
def test_the_model_sees_as_many_passes_while_the_attack_runs(name):
    """The passes of compiled code, one by one; under vmap, of the gradients of all logits, each by itself."""
    attack, seen = TABLE[name], collections.Counter()

    def count(what):
        return lambda rows: seen.update({what: rows.size // (len(IMAGES) * K)})

    @jax.custom_vjp
    def counted(logits):
        jax.debug.callback(count("forward"), logits)
        return logits

    def back(_, gradient):
        jax.debug.callback(count("backward"), gradient)
        return (gradient,)

    counted.defvjp(lambda logits: (counted(logits), None), back)
    attack(lambda images: counted(MODEL(images)), IMAGES, labels_of(attack), KEYS)
    jax.effects_barrier()
    assert Passes(seen["forward"], seen["backward"]) == total_passes(attack, K, SHAPE)


def test_passes_are_counted_through_loops_branches_and_maps():
    model = marked(MODEL)
    images = jnp.zeros((2, *SHAPE))

    def work(images):
        def look(images, _):
            gradient = jax.grad(lambda x: jax.checkpoint(model)(x).sum())(images)
            return gradient, lax.cond(images.sum() > 0, lambda x: model(model(x)[:, :1, None, None] + x), model, images)

        moved, _ = lax.scan(look, images, length=3)
        return jax.vmap(model)(jnp.stack([moved] * 4))

    found = passes_in(jax.make_jaxpr(work)(images).jaxpr, 2 * K)
    # Recomputing what a network does not keep is its own affair.
    assert found == Passes(3 * (1 + 2) + 4, 3)
    assert (found.total, found.cost) == (16, 19)


def test_a_model_in_a_loop_of_unknown_length_cannot_be_counted():
    @struct.dataclass(kw_only=True)
    class Searching(PGD):
        def step(self, model, images, labels, state):
            lax.while_loop(lambda x: model(x).sum() > 0, lambda x: x - 1, images)
            return super().step(model, images, labels, state)

    with pytest.raises(UserError, match=r"expected a model in loops of known lengths, got one in a while_loop"):
        count_passes(Searching(eps=1.0, norm="L2"), K, SHAPE)


def test_steps_that_ask_nothing_cost_something_all_the_same():
    @struct.dataclass(kw_only=True)
    class Guessing(PGD):
        def step(self, model, images, labels, state):
            return state

    assert steps_cost(Guessing(eps=1.0, norm="L2", steps=7), K, SHAPE) == 1
    # A gradient is a pass forward and one back, which takes as long as two; a query is one forward.
    assert steps_cost(PGD(eps=1.0, norm="L2", steps=7), K, SHAPE) == 7 * 3
    assert steps_cost(Square(eps=1.0, norm="L2", steps=7), K, SHAPE) == 7


def test_counting_computes_nothing_of_the_model():
    """It takes milliseconds, whatever the network."""
    passes = count_passes(TABLE["pgd L2"], 1000, (224, 224, 3))
    assert passes.step == Passes(1, 1)
    assert np.isfinite(passes.after(1).total)
