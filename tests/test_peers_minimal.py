"""DeepFool, SuperDeepFool, Carlini and Wagner's and APGD as minimum-norm attacks against adv_lib's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.attacks import CarliniWagner, DeepFool, MinimalAPGD, SuperDeepFool, example_keys, minimal_apgd

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from reference.images import to_numpy, to_torch
from reference.peers import Recorded, in_float64, peer

# adv_lib keeps distances, and what it bisects, in float32.
TOLERANCE = 1e-5
# From APGD's second checkpoint on, adv_lib takes the best loss for the one at the checkpoint before, and halves more
# often. Of 7 images so many have the same radii in all runs all the same.
SECOND_CHECK, SAME_RADII = 3, 5
NORMS = {"L2": 2, "Linf": float("inf")}


def adv_lib(module, name):
    try:
        return getattr(peer(f"adv_lib.attacks.{module}"), name)
    except ImportError as error:
        pytest.skip(f"needs adv_lib (pip install --no-deps adv-lib==0.2.8): {error}")


def reached(attack, twin, images, labels, **options):
    return to_numpy(attack(twin, to_torch(images), torch.tensor(labels), **options).detach())


@pytest.mark.parametrize("norm", NORMS)
def test_deepfool_ends_where_adv_libs_does(norm):
    attack = adv_lib("deepfool", "df")
    with in_float64() as (classifier, twin, images, labels):
        expected = reached(attack, twin, images, labels, steps=12, norm=NORMS[norm])
        found = DeepFool(steps=11, norm=norm)(classifier, images, labels)
        assert found.success.all()
        np.testing.assert_allclose(found.adversarial, expected, atol=TOLERANCE)


def test_superdeepfool_ends_where_adv_libs_does():
    attack = adv_lib("superdeepfool", "sdf")
    with in_float64() as (classifier, twin, images, labels):
        options = {"steps": 40, "df_steps": 40}
        search = SuperDeepFool(steps=150)
        expected = reached(attack, twin, images, labels, **options, search_iter=10)
        found = search(classifier, images, labels)
        assert found.success.all()
        # Of all crossings on the way ours bisects the nearest, which is not always the last.
        same = np.abs(np.asarray(found.adversarial) - expected).max((1, 2, 3)) <= TOLERANCE
        assert same.sum() >= 4
        sizes = np.sqrt(np.square(expected - images).sum((1, 2, 3)))
        assert (np.asarray(found.norm) <= 1.01 * sizes).all()


def test_every_step_of_carlini_and_wagner_equals_adv_libs():
    attack = adv_lib("carlini_wagner.l2", "carlini_wagner_l2")
    with in_float64() as (classifier, twin, images, labels):
        recorded = Recorded(twin)
        options = {"binary_search_steps": 3, "max_iterations": 10, "abort_early": False, "initial_const": 1.0}
        reached(attack, recorded, images, labels, learning_rate=0.05, **options)
        search = CarliniWagner(steps=30, run_steps=10, step_length=0.05, init_weight=1.0)
        x, y = jnp.asarray(images), jnp.asarray(labels)
        step = jax.jit(lambda state: search.step(classifier, x, y, state))
        state = search.init(classifier, x, y, None)
        begun = np.arctanh((2 * images - 1) * (1 - 1e-6))
        for point in recorded.points:
            np.testing.assert_allclose((np.tanh(begun + state.moved) + 1) / 2, point, atol=TOLERANCE)
            state = step(state)
        assert len(recorded.points) == 30
        assert jnp.isfinite(state.best_so_far.norm).any()


@pytest.mark.parametrize("norm", NORMS)
def test_minimal_apgd_searches_as_adv_lib_does(norm, monkeypatch):
    """From the same starting points, in the same balls; the last run's points are compared."""
    attack = adv_lib("auto_pgd", "minimal_apgd")
    runs, steps, largest = 4, 10, {"L2": 4.0, "Linf": 0.2}[norm]
    with in_float64() as (classifier, twin, images, labels):
        scale = 255.0 if norm == "Linf" else 1.0
        # The cross-entropy: where the label is third, the gradient of DLR is that of its denominator's tiny number.
        search = MinimalAPGD(
            steps=runs * (steps + 1),
            run_steps=steps,
            norm=norm,
            init_norm=largest * scale,
            loss="cross_entropy",
            thrifty=False,
        )
        x, y = jnp.asarray(images), jnp.asarray(labels)
        keys, draws = example_keys(jax.random.key(0), jnp.arange(len(images))), iter(range(runs))

        def drawn(like):
            run = next(draws)
            inner = search._run(jnp.ones(len(images)))
            values = inner.drawn(jax.vmap(jax.random.fold_in, (0, None))(keys, run), x)
            values = to_torch(np.asarray(values))
            return values if norm == "L2" else (values + 1) / 2

        def begun(run, images, ascent):
            # The original does not halve at the first checkpoint where the loss never rose, nor do we; adv_lib does.
            return ours(run, images, ascent)._replace(halved_at_check=jnp.zeros(len(images), bool))

        ours = minimal_apgd._begun
        monkeypatch.setattr(minimal_apgd, "_begun", begun)
        monkeypatch.setattr(torch, "randn_like" if norm == "L2" else "rand_like", drawn)
        recorded = Recorded(twin)
        options = {"norm": NORMS[norm], "max_eps": largest, "binary_search_steps": runs, "n_iter": steps}
        reached(attack, recorded, images, labels, loss_function="ce", **options)
        step = jax.jit(lambda state: search.step(classifier, x, y, state))
        state = search.init(classifier, x, y, keys)
        # Each of adv_lib's runs is checked by a pass of its own.
        points = [point for place, point in enumerate(recorded.points) if (place + 1) % (steps + 2)]
        assert len(points) == runs * (steps + 1)
        for place, point in enumerate(points):
            state = step(state)
            same = np.abs(np.asarray(state.ascent.iterate) - point).max((1, 2, 3)) <= TOLERANCE
            if place <= SECOND_CHECK:
                assert same.all(), f"after gradient {place}: {same}"
            if place % (steps + 1) == 0:
                assert same.sum() >= SAME_RADII, f"run {place // (steps + 1)} begins elsewhere: {same}"
        assert jnp.isfinite(state.best_so_far.norm).all()
