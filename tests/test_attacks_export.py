"""Every attack, and a step of training with one, lowers for machines that are not here: `jax.export` needs none."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier
from parametrised import some
from recipes import tiny_recipe

from advx_jax.attacks import (
    APGD,
    APGDT,
    BEST,
    DDN,
    EXPLANATION,
    FAB,
    FABT,
    FMN,
    PGD,
    FirstSuccess,
    NoBetterThanRandom,
    Published,
    PublishedBounded,
    Square,
)
from advx_jax.networks.classifier import Provenance
from advx_jax.training.state import initial_state, make_optimizer
from advx_jax.training.step import AXIS, Batch, TrainingSet, make_step

PLATFORMS = ("cuda", "rocm", "tpu")

BALL = {"eps": 0.03, "norm": "Linf", "steps": 3}

ATTACKS = {
    "bounded": PublishedBounded(steps=3),
    "explanation": EXPLANATION.replace(steps=3),
    "ARA, attack": Published(steps=3),
    "ARA, BTR": Published(steps=3, criterion=NoBetterThanRandom()),
    "ARA, best": BEST.with_settings(steps=4).until(NoBetterThanRandom()),
    "ddn": DDN(steps=2, levels=256),
    "fmn": FMN(steps=2, norm="Linf"),
    "pgd": PGD(eps=0.5, norm="L2", steps=3),
    "apgd": APGD(eps=0.5, norm="L2", steps=3, loss="dlr"),
    "fab": FAB(eps=0.5, norm="L2", steps=3),
    "square": Square(eps=0.5, norm="L2", steps=3),
    "autoattack": FirstSuccess(attacks=(APGD(**BALL), APGDT(**BALL), FABT(**BALL), Square(**BALL))),
}


def assert_lowered(exported):
    assert exported.platforms == PLATFORMS
    assert len(exported.mlir_module_serialized) > 1000


# Of the loops of one kind the default run lowers one; Square and APGD have what else an ensemble would have.
BRIEFLY = ("explanation", "ARA, best", "apgd", "fab", "square")


@some("name", ATTACKS, by_default=BRIEFLY)
def test_attack_lowers_for_every_accelerator(name):
    classifier = random_classifier()
    images, labels = jnp.full((2, 8, 8, 3), 0.5), jnp.zeros(2, jnp.int32)
    attack = jax.jit(lambda *arguments: ATTACKS[name](*arguments))
    assert_lowered(jax.export.export(attack, platforms=PLATFORMS)(classifier, images, labels))


def exported_step(recipe, platforms):
    optimizer = make_optimizer(recipe, 10)
    state = initial_state(
        recipe, optimizer, (random_classifier(architecture=recipe.architecture), Provenance(psi_integrator=0.0))
    )
    data = TrainingSet(np.zeros((12, 8, 8, 3), np.uint8), np.zeros(12, np.int32))
    batch = Batch(np.arange(4), np.arange(4), None)
    step = jax.jit(jax.vmap(make_step(recipe, optimizer), axis_name=AXIS))
    arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (state, data, batch))
    return jax.export.export(step, platforms=platforms)(*arguments)


@pytest.mark.parametrize("recipe", [pytest.param("adv_train", marks=pytest.mark.slow), "all"])
def test_training_step_lowers_for_every_accelerator(recipe):
    assert_lowered(exported_step(tiny_recipe(recipe), PLATFORMS))


@pytest.mark.parametrize(("compute_dtype", "precision"), [("float32", "HIGHEST"), ("tensorfloat32", "HIGH")])
def test_all_convolutions_of_a_step_have_the_precision_asked_for(compute_dtype, precision):
    recipe = dataclasses.replace(tiny_recipe("robust"), compute_dtype=compute_dtype)
    assert precisions_in(exported_step(recipe, ("cuda",))) == {precision}


@pytest.mark.parametrize(("compute_dtype", "precision"), [("float32", "HIGHEST"), ("tensorfloat32", "HIGH")])
def test_all_convolutions_of_an_attack_have_the_precision_asked_for(compute_dtype, precision):
    classifier = dataclasses.replace(random_classifier(), compute_dtype=compute_dtype)
    images, labels = jnp.full((2, 8, 8, 3), 0.5), jnp.zeros(2, jnp.int32)
    attack = jax.jit(lambda *arguments: PublishedBounded(steps=3)(*arguments))
    exported = jax.export.export(attack, platforms=("cuda",))(classifier, images, labels)
    assert precisions_in(exported) == {precision}


def precisions_in(exported):
    convolutions = [line for line in exported.mlir_module().splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) > 10
    return {name for line in convolutions for name in re.findall(r"precision (\w+)>", line)}
