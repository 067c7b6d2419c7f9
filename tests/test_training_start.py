"""The network that training starts from, what fits, and what is said of a recipe before it begins."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier
from recipes import published_recipe, tiny_recipe

from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import load_network, save_network
from advx_jax.networks.psi import psi_of
from advx_jax.networks.registry import manifest, resolve_network
from advx_jax.training.export import export_network
from advx_jax.training.fit import check_fit, check_target, what_to_know
from advx_jax.training.loop import Data
from advx_jax.training.psi_controller import penalty_weight
from advx_jax.training.start import starting_point
from advx_jax.training.state import initial_state, make_optimizer

# r of the published resnet44-robust.
INTEGRATOR = 251.69741587156975
PUBLISHED = published_recipe("robust").penalty
QUICK = published_recipe("quick_robust").penalty


def weight(penalty, integrator):
    """ψ of the first step, as training computes it."""
    return float(penalty_weight(penalty, jnp.asarray(integrator)))


def told(integrator, penalty):
    """The provenance of a network trained with a penalty."""
    return Provenance("told", (), integrator, psi=psi_of(integrator, penalty.weight_at_zero, penalty.rate))


def test_the_weight_goes_on_where_the_recipe_has_another_rate():
    point = starting_point(QUICK, told(INTEGRATOR, PUBLISHED))
    assert weight(QUICK, point.integrator) == pytest.approx(33_778, rel=1e-4)
    assert point.integrator == pytest.approx(INTEGRATOR / 3)
    other = dataclasses.replace(PUBLISHED, weight_at_zero=1000.0)
    assert weight(other, starting_point(other, told(INTEGRATOR, PUBLISHED)).integrator) == pytest.approx(
        33_778, rel=1e-4
    )


@pytest.mark.parametrize("penalty", [PUBLISHED, QUICK])
@pytest.mark.parametrize("integrator", [0.0, 0.1, 67.2, INTEGRATOR])
def test_in_the_same_recipe_the_integrator_goes_on_to_the_bit(penalty, integrator):
    assert starting_point(penalty, told(integrator, penalty)) == (integrator, False)


def test_a_weight_below_that_at_zero_becomes_it():
    other = dataclasses.replace(PUBLISHED, weight_at_zero=50_000.0)
    assert starting_point(other, told(INTEGRATOR, PUBLISHED)) == (0.0, False)


@pytest.mark.parametrize("provenance", [Provenance(), told(INTEGRATOR, PUBLISHED)])
def test_without_a_penalty_or_without_a_weight_it_starts_at_zero(provenance):
    assert starting_point(None, provenance) == (0.0, False)
    assert starting_point(QUICK, Provenance()) == (0.0, False)


def test_a_weight_that_no_file_tells_is_assumed_and_it_is_said():
    older = Provenance("older", (), 67.2)
    assert starting_point(PUBLISHED, older) == (67.2, False)
    assert starting_point(QUICK, older) == (67.2, True)
    recipe = tiny_recipe("quick_robust", epochs=12)
    classifier = random_classifier(1, recipe.architecture)
    (line,) = what_to_know(recipe, (classifier, older))
    assert line == (
        "config.init_from: older does not tell the weight ψ that its penalty had: going on with its integrator, 67.2, "
        f"by which ψ is {220 * math.exp(0.06 * 67.2):.6g} in this recipe"
    )
    assert list(what_to_know(recipe, (classifier, told(67.2, QUICK)))) == []
    for name in ("robust", "standard"):
        assert list(what_to_know(tiny_recipe(name, epochs=200), (classifier, older))) == []


def test_networks_that_ship_tell_their_weight():
    for name, entry in manifest().items():
        if entry.url is not None:
            continue
        provenance = resolve_network(name).provenance
        assert provenance.psi == entry.psi
        assert (entry.psi is None) == (provenance.psi_integrator is None)
        if entry.psi is not None:
            # All of them were trained with this rate: in their own recipe they go on to the bit.
            assert starting_point(QUICK, provenance) == (provenance.psi_integrator, False)
            point = starting_point(PUBLISHED, provenance)
            assert weight(PUBLISHED, point.integrator) == pytest.approx(entry.psi, rel=1e-4)


def test_a_published_network_starts_a_quick_recipe_with_its_weight(published_pt):
    found = resolve_network(str(published_pt("resnet44-robust")))
    recipe = dataclasses.replace(published_recipe("quick_robust"), architecture=found.classifier.architecture)
    state = initial_state(recipe, make_optimizer(recipe, 1), found[:2])
    assert weight(QUICK, state.integrator) == pytest.approx(33_778, rel=1e-4)


def test_an_exported_network_tells_its_weight(tmp_path):
    recipe = tiny_recipe("quick_robust", epochs=12)
    start = random_classifier(7, recipe.architecture), told(50.0, QUICK)
    state = initial_state(recipe, make_optimizer(recipe, 4), start)
    export_network(tmp_path / "network.safetensors", recipe, state)
    classifier, provenance = load_network(tmp_path / "network.safetensors")
    assert (provenance.psi_integrator, provenance.psi) == (50.0, psi_of(50.0, 220.0, 0.06))
    again = initial_state(recipe, make_optimizer(recipe, 4), (classifier, provenance))
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_without_a_weight_files_are_what_they_were(tmp_path):
    classifier = random_classifier(7)
    save_network(tmp_path / "older.safetensors", classifier, Provenance("older", psi_integrator=2.0))
    assert b"psi\\" not in (tmp_path / "older.safetensors").read_bytes()[:4000]
    assert load_network(tmp_path / "older.safetensors")[1].psi is None
    save_network(tmp_path / "told.safetensors", classifier, told(2.0, QUICK))
    assert load_network(tmp_path / "told.safetensors")[1] == told(2.0, QUICK)


@pytest.mark.parametrize("psi", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_is_none_is_refused(psi, tmp_path):
    save_network(tmp_path / "odd.safetensors", random_classifier(7), Provenance(psi=psi))
    with pytest.raises(UserError, match="expected another kind of psi"):
        load_network(tmp_path / "odd.safetensors")


def images(labels, names=CIFAR10_CLASSES):
    labels = np.asarray(labels)
    return ImageSet(np.zeros((len(labels), 8, 8, 3), np.uint8), labels, names, "a folder")


DATA = Data(images(np.arange(40) % 10), images(np.arange(10)))


def with_classes(recipe, n_classes):
    return dataclasses.replace(recipe, architecture=dataclasses.replace(recipe.architecture, n_classes=n_classes))


@pytest.mark.parametrize("n_classes", [2, 4, 5])
def test_a_target_above_the_loss_of_guessing_is_refused(n_classes):
    names = CIFAR10_CLASSES[:n_classes]
    data = Data(*(images(np.arange(40) % n_classes, names) for _ in range(2)))
    recipe = with_classes(tiny_recipe("robust"), n_classes)
    check_fit(recipe, data)
    if n_classes == 5:
        check_target(recipe)
        return
    said = rf"^config\.penalty\.target_loss: expected above 0 and below ln K = {math.log(n_classes):.3f}, .*, got 1\.5$"
    with pytest.raises(UserError, match=said):
        check_target(recipe)
    check_target(with_classes(tiny_recipe("standard"), n_classes))
    # The paper's part of ln K.
    scaled = dataclasses.replace(recipe.penalty, target_loss=0.65 * math.log(n_classes))
    check_target(dataclasses.replace(recipe, penalty=scaled))


def test_images_of_one_class_are_refused_before_the_first_epoch():
    for names, expected in (((*CIFAR10_CLASSES,), "airplane"), (("images",), "images")):
        data = Data(images(np.zeros(40, int), names), images(np.zeros(10, int), names))
        recipe = with_classes(tiny_recipe("standard"), len(names))
        with pytest.raises(UserError) as caught:
            check_fit(recipe, data)
        assert str(caught.value) == f"expected images of at least 2 classes in a folder, got 1 ({expected})"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 20}, True),
        ({"epochs": 170}, True),
        ({"epochs": 171}, False),
    ],
)
def test_drops_that_no_epoch_reaches_are_told(changes, said):
    recipe = tiny_recipe("robust", **changes)
    line = (
        f"no drop of the learning rate lies within the {recipe.epochs} epochs: config.optimizer.learning_rate_drops is "
        "(170, 195)"
    )
    assert list(what_to_know(recipe)) == ([line] if said else [])
    cosine = dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, decay="cosine"))
    assert list(what_to_know(cosine)) == []
