"""Attacks made of others: one criterion and one norm for all, and what is no attack is refused in one line."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from advx_jax.attacks import (
    BEST,
    DDN,
    FAB,
    FMN,
    PGD,
    AutoAttack,
    Ensemble,
    FirstSuccess,
    MinimalAPGD,
    Misclassified,
    NoBetterThanRandom,
    Restarted,
    SmallestSuccess,
    Targeted,
)
from advx_jax.errors import UserError

SHAPE, N, K = (4, 4, 3), 6, 5
BALL = {"eps": 1.0, "norm": "L2", "steps": 3}
TOWARDS = PGD(**BALL, criterion=Targeted())
AWAY = PGD(**BALL)


@jax.tree_util.Partial
def linear(images):
    weights = 4 * jax.random.normal(jax.random.key(0), (int(np.prod(SHAPE)), K))
    return (images - 0.5).reshape(images.shape[0], -1) @ weights


IMAGES = jax.random.uniform(jax.random.key(1), (N, *SHAPE))
SECOND = jnp.argsort(linear(IMAGES), axis=-1)[:, -2].astype(jnp.int32)


def test_targets_of_the_attack_are_those_of_its_restarts():
    """Read as true labels, they would be "broken" by the unperturbed images."""
    result = Restarted(attack=TOWARDS, restarts=2)(linear, IMAGES, SECOND)
    found = np.asarray(result.success)
    assert found.any()
    assert (np.asarray(result.norm)[found] > 0).all()
    np.testing.assert_array_equal(linear(result.adversarial).argmax(-1)[found], SECOND[found])


def criteria(attack):
    return {attack.criterion} | {part.attack.criterion for part in attack.parts(K)}


@pytest.mark.parametrize("criterion", [Misclassified(), NoBetterThanRandom(), Targeted()])
def test_an_ensemble_has_the_criterion_that_its_attacks_share(criterion):
    members = (FMN(criterion=criterion), DDN(criterion=criterion))
    made = [
        FirstSuccess(attacks=members),
        SmallestSuccess(attacks=members),
        Restarted(attack=members[0], restarts=2),
        FirstSuccess(attacks=(members[0], Restarted(attack=members[1], restarts=2))),
    ]
    for attack in made:
        assert criteria(attack) == {criterion}
        attack.check(K)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("attack", [BEST, Restarted(attack=FirstSuccess(attacks=(TOWARDS,)), restarts=2)])
def test_an_ensemble_is_a_pytree_of_whatever_jax_puts_in_it(attack):
    leaves, structure = jax.tree.flatten(attack)
    assert jax.tree.unflatten(structure, leaves) == attack
    assert criteria(jax.tree.unflatten(structure, [object()] * len(leaves))) == criteria(attack)


@pytest.mark.parametrize("attack", [BEST, Restarted(attack=FirstSuccess(attacks=(TOWARDS,)), restarts=2)])
def test_another_criterion_is_that_of_all(attack):
    for changed in (attack.until(NoBetterThanRandom()), attack.with_settings(criterion=NoBetterThanRandom())):
        assert criteria(changed) == {NoBetterThanRandom()}
        changed.check(K)
    assert criteria(attack.until(NoBetterThanRandom()).until(Misclassified())) == {Misclassified()}
    # What its attacks say nothing of, the whole may.
    assert criteria(SmallestSuccess(attacks=BEST.attacks, criterion=Targeted())) == {Targeted()}


def test_attacks_of_several_criteria_are_refused():
    with pytest.raises(UserError, match=r"^expected attacks of one criterion in firstsuccess, got Targeted\(\), Mis"):
        FirstSuccess(attacks=(TOWARDS, AWAY))
    message = r"^expected the criterion NoBetterThanRandom\(\) for all attacks in .*, got Targeted\(\) in pgd: until"
    for attack in (
        FirstSuccess(attacks=(AWAY, TOWARDS), criterion=NoBetterThanRandom()),
        Restarted(attack=TOWARDS, restarts=2, criterion=NoBetterThanRandom()),
        dataclasses.replace(Restarted(attack=TOWARDS, restarts=2), criterion=NoBetterThanRandom()),
    ):
        with pytest.raises(UserError, match=message):
            attack.check(K)


def test_so_are_those_that_an_ensemble_of_ones_own_makes():
    @struct.dataclass(kw_only=True)
    class Own(Ensemble):
        eps: float = 0.5

        def members(self, n_classes):
            return (PGD(eps=self.eps, norm="L2", criterion=Targeted()),)

    with pytest.raises(UserError, match=r"criterion Misclassified\(\) for all attacks in own, got Targeted\(\) in pgd"):
        Own()(linear, IMAGES, SECOND)
    Own().until(Targeted()).check(K)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_sizes_of_ensembles_within_are_in_the_norm_of_their_attacks(norm):
    again = Restarted(attack=MinimalAPGD(norm="Linf", steps=8, run_steps=3), restarts=2)
    attack = SmallestSuccess(attacks=(FMN(norm=norm, steps=8), again))
    if norm == "Linf":
        attack.check(K)
    else:
        with pytest.raises(UserError, match=r"^expected attacks of one norm in smallest, got L2, Linf$"):
            attack.check(K)


NO_ATTACKS = {
    "an attack for several": (
        lambda: FirstSuccess(attacks=AWAY),
        r"^expected attacks in a tuple or a list, got PGD\(",
    ),
    "a name for several": (lambda: FirstSuccess(attacks="pgd"), r"^expected attacks in a tuple or a list, got 'pgd'$"),
    "names": (lambda: SmallestSuccess(attacks=("fmn",)), r"^expected an attack such as .*, got 'fmn'$"),
    "a name": (lambda: Restarted(attack="pgd", restarts=2), r"^expected an attack such as .*, got 'pgd'$"),
    "a class": (lambda: Restarted(attack=PGD, restarts=2), r"^expected an attack such as .*, got <class"),
    "a name, with a criterion": (
        lambda: Restarted(attack="pgd", restarts=2, criterion=Targeted())(linear, IMAGES, SECOND),
        r"^expected an attack such as .*, got 'pgd'$",
    ),
    "a criterion's class": (
        lambda: PGD(**BALL, criterion=Targeted),
        r"^expected a criterion such as .*, got Targeted$",
    ),
    "a criterion's name": (lambda: PGD(**BALL, criterion="targeted"), r"^expected a criterion .*, got 'targeted'$"),
    "until a class": (lambda: BEST.until(Targeted), r"^expected a criterion such as Targeted\(\), got Targeted$"),
    "steps in words": (lambda: BEST.with_settings(steps="100"), r"^expected a whole number as steps, got '100'$"),
    "no steps": (lambda: BEST.with_settings(steps=None), r"^expected a whole number as steps, got None$"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", NO_ATTACKS)
def test_what_are_no_attacks_is_refused(name):
    make, message = NO_ATTACKS[name]
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.usefixtures("unchecked")
def test_attacks_may_stand_in_a_list():
    assert FirstSuccess(attacks=[AWAY, AWAY]) == FirstSuccess(attacks=(AWAY, AWAY))


@pytest.mark.parametrize(
    "attack", [FAB(eps=1.0, norm="L2", steps=3), AutoAttack(eps=1.0, norm="L2"), Restarted(attack=AWAY, restarts=2)]
)
def test_only_what_can_reach_a_boundary_takes_it(attack):
    changed = attack.until(NoBetterThanRandom())
    if isinstance(attack, Restarted):
        changed.check(K)
        return
    with pytest.raises(UserError, match=r"^expected the criterion Misclassified\(\) for fab(-t)?, got NoBetterThanRan"):
        changed.check(K)
