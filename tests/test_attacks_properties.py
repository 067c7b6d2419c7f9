"""A table: every attack of the package and some of one's own, and what must hold of each.

A row is an attack, a column one of the tests. Attacks that break a rule are rows too, and must fail its column.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from parametrised import some

from advx_jax import attacks as package
from advx_jax.analysis.accuracy import accuracy
from advx_jax.analysis.robust_accuracy import robust_accuracy
from advx_jax.analysis.robustness_area import boundary_distances
from advx_jax.attacks import (
    ALMA,
    APGD,
    APGDT,
    DDN,
    EXPLANATION,
    FAB,
    FABT,
    FMN,
    PDGD,
    PDPGD,
    PGD,
    Attack,
    AutoAttack,
    FirstSuccess,
    FixedEpsilon,
    FrankWolfe,
    NoBetterThanRandom,
    Published,
    PublishedBounded,
    Restarted,
    SigmaZero,
    SigmaZeroSwaps,
    SmallestSuccess,
    Square,
    Targeted,
    example_keys,
)
from advx_jax.errors import UserError

SHAPE, N, K, HIDDEN = (6, 6, 3), 8, 5, 16
POWERS = {"L1": 1, "L1.5": 1.5, "L2": 2}
# Far enough for some images, not for all.
EPS = {"L2": 0.5, "Linf": 0.06}
WRONG = 5
LANES = ("1", "2", "4")
# Of each kind of step and of ensemble one is enough where compiling is all that it costs.
IN_LANES = ["pgd L2", "published", "fmn Linf"]
SLOWLY_IN_LANES = [
    "first success L2",
    "restarted L2",
    "apgd-t L2",
    "fab-t Linf",
    "square Linf",
    "own fgsm Linf",
    "own nearest",
]

# x + δ rounds by half a unit in the last place of a pixel, below 2⁻²⁴; in L2 all pixels' add up.
PIXEL_ROUNDING = 2.0**-24
# x + (clip(x + δ) - x), and sums over the pixels of an image.
ROUNDING = 1e-5
# The same float32 arithmetic of another compilation, over the few steps made here.
COMPILATION = 1e-3


def network(weights, images):
    """Smooth, and so small that a step costs nothing."""
    first, second = weights
    return product(jnp.tanh(product((images - 0.5).reshape(len(images), -1), first)), second)


def product(rows, matrix):
    """Each row by itself: a matrix product rounds by the number of rows, on some processors and by some jaxlibs."""
    return (rows[:, :, None] * matrix).sum(1)


def weights():
    first, second = jax.random.split(jax.random.key(0))
    return 0.3 * jax.random.normal(first, (int(np.prod(SHAPE)), HIDDEN)), jax.random.normal(second, (HIDDEN, K))


MODEL = jax.tree_util.Partial(network, weights())
IMAGES = jax.random.uniform(jax.random.key(1), (N, *SHAPE))
CLASSES = np.asarray(MODEL(IMAGES).argmax(-1), np.int32)
LABELS = np.where(np.arange(N) == WRONG, (CLASSES + 1) % K, CLASSES).astype(np.int32)
SECOND = np.asarray(jnp.argsort(MODEL(IMAGES), axis=-1)[:, -2], np.int32)
KEYS = example_keys(jax.random.key(2), jnp.arange(N))


def documented(name):
    """An attack as a file of docs/extending.md defines it."""
    text = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if f"class {name}(" in block:
            module = {"__name__": "documented"}
            exec(block, module)
            return module[name]
    raise LookupError(name)


def fixed_epsilon(norm):
    ball = {"eps": EPS[norm], "norm": norm}
    short = (APGD(**ball, steps=6), APGDT(**ball, steps=4), FABT(**ball, steps=4), Square(**ball, steps=8))
    made = {
        "pgd": PGD(**ball, steps=8),
        "apgd-ce": APGD(**ball, steps=10),
        "apgd-dlr": APGD(**ball, steps=10, loss="dlr"),
        "apgd-margin": APGD(**ball, steps=10, loss="margin"),
        "apgd-t": APGDT(**ball, steps=6),
        "fab": FAB(**ball, steps=6),
        "fab-t": FABT(**ball, steps=6),
        "square": Square(**ball, steps=20),
        "first success": FirstSuccess(attacks=short),
        "restarted": Restarted(attack=PGD(**ball, steps=3), restarts=2),
        "own fgsm": documented("FGSM")(**ball),
    }
    return {f"{name} {norm}": attack for name, attack in made.items()}


TABLE = {
    **fixed_epsilon("L2"),
    **fixed_epsilon("Linf"),
    "out of the box": PGD(eps=20.0, norm="L2", steps=4, stay_in_range=False),
    "apgd-ce L1": APGD(eps=3.0, norm="L1", steps=10),
    "apgd-t L1": APGDT(eps=3.0, norm="L1", steps=4, n_targets=2),
    "apgd-ce L1 out of the box": APGD(eps=3.0, norm="L1", steps=10, stay_in_range=False),
    "phased apgd-ce L1": package.PhasedAPGD(eps=2.0, norm="L1", steps=8),
    "phased apgd-t L1": package.PhasedAPGDT(eps=2.0, norm="L1", steps=4, n_targets=2),
    "fab L1": FAB(eps=3.0, norm="L1", steps=6),
    "square L1": Square(eps=8.0, norm="L1", steps=20),
    "apgd-ce of several draws": APGD(eps=EPS["L2"], norm="L2", steps=8, eot=2),
    "autoattack": AutoAttack(eps=EPS["Linf"], norm="Linf"),
    "published": Published(eps=2.0, steps=25),
    "published, BTR": Published(eps=2.0, steps=25, criterion=NoBetterThanRandom()),
    "published, bounded": PublishedBounded(eps=0.1, steps=7),
    "explanation": EXPLANATION.replace(steps=10),
    "ddn": DDN(steps=15),
    "ddn, rounded": DDN(steps=15, levels=256),
    "fmn L2": FMN(steps=15),
    "fmn L0": FMN(steps=25, norm="L0"),
    "fmn L1": FMN(steps=15, norm="L1"),
    "fmn Linf": FMN(steps=15, norm="Linf", stay_in_range=False),
    "sigma-zero": SigmaZero(steps=25),
    "sigma-zero-swaps": SigmaZeroSwaps(steps=50),
    "pdgd": PDGD(steps=25, first_ratio=1.0),
    "pdpgd L0": PDPGD(norm="L0", steps=25, shrink="L1"),
    "steep fmn L1": package.SteepFMN(norm="L1", steps=15),
    "steep fmn Linf": package.SteepFMN(norm="Linf", steps=15),
    "pdpgd L1": PDPGD(norm="L1", steps=25),
    "pdpgd L2": PDPGD(steps=25),
    "pdpgd Linf": PDPGD(norm="Linf", steps=25),
    "alma L1": ALMA(norm="L1", steps=25, first_distance=1.0, stay_in_range=False),
    "alma L2": ALMA(steps=25, first_distance=0.2),
    "best": package.BEST.with_settings(steps=20),
    "smallest": SmallestSuccess(attacks=(DDN(steps=8), FMN(steps=8)), criterion=NoBetterThanRandom()),
    "minimal apgd L1": package.MinimalAPGD(steps=40, run_steps=8, norm="L1"),
    "minimal apgd L2": package.MinimalAPGD(steps=24, run_steps=5),
    "minimal apgd-t Linf": package.MinimalAPGD(
        steps=24, run_steps=3, norm="Linf", targeted=True, init_norm=10.0, n_targets=2
    ),
    "deepfool L2": package.DeepFool(steps=6),
    "deepfool Linf": package.DeepFool(steps=6, norm="Linf"),
    "superdeepfool": package.SuperDeepFool(steps=10),
    "cw": package.CarliniWagner(steps=30, run_steps=10, step_length=0.1, init_weight=0.1),
    "own nearest": documented("CarliniWagner")(steps=15, c=1.0),
    "targeted pgd": PGD(eps=1.0, norm="L2", steps=8, criterion=Targeted()),
    "targeted apgd": APGD(eps=1.0, norm="L2", steps=10, criterion=Targeted()),
    "targeted apgd-dlr": APGD(eps=1.0, norm="L2", steps=10, loss="dlr", criterion=Targeted()),
    "targeted square": Square(eps=2.0, norm="L2", steps=20, criterion=Targeted()),
    "targeted ddn": DDN(steps=15, criterion=Targeted()),
    "targeted sigma-zero": SigmaZero(steps=25, criterion=Targeted()),
    "targeted pdpgd": PDPGD(steps=25, criterion=Targeted()),
    "targeted alma": ALMA(steps=25, first_distance=0.2, criterion=Targeted()),
    "alma, BTR": ALMA(steps=25, first_distance=0.2, criterion=NoBetterThanRandom()),
    "targeted fmn": FMN(steps=15, criterion=Targeted()),
    "frank-wolfe L2": FrankWolfe(eps=EPS["L2"], norm="L2", steps=8),
    "frank-wolfe Linf": FrankWolfe(eps=EPS["Linf"], norm="Linf", steps=8),
    "frank-wolfe out of the box": FrankWolfe(eps=3.0, norm="L1.5", steps=8, stay_in_range=False),
    "targeted frank-wolfe": FrankWolfe(eps=2.0, steps=8, criterion=Targeted()),
    "targeted published": Published(eps=4.0, steps=25, criterion=Targeted()),
}
# Its 5000 queries are many for the columns that run it again and again.
BRIEF = [name for name in TABLE if name != "autoattack"]
# Of what differs in the norm or the target alone, one.
DISTINCT = [name for name in BRIEF if not name.endswith(" Linf") and not name.startswith("targeted")]
# A loss or a part that stands in the table with the other norm too.
COMBINED = {"apgd-dlr Linf", "apgd-margin Linf", "first success Linf", "restarted Linf"}
COMBINED |= {
    "pdpgd L0",
    "pdpgd L2",
    "pdpgd Linf",
    "alma L2",
    "alma, BTR",
    "targeted pdpgd",
    "targeted alma",
    "apgd-t L1",
    "phased apgd-t L1",
    "steep fmn Linf",
}
# Another loss, criterion or box for steps that are in the table, for the columns in which each costs a compilation.
VARIED = {
    *("apgd-dlr L2", "apgd-margin L2", "apgd-ce L1 out of the box", "apgd-ce of several draws", "out of the box"),
    *("published, BTR", "smallest", "frank-wolfe out of the box"),
    *("phased apgd-ce L1", "fab L1", "square L1"),
}
# What mixes images of a batch does so in either norm and towards any class; windows of Square differ in the norms.
ALONE = {name for name in BRIEF if (name.endswith(" Linf") or "targeted" in name) and name != "square Linf"}
ALONE |= COMBINED | VARIED
# Another number of images is another compilation: one of each base, and those that choose among parts or windows.
NUMBERED = {
    *("pgd L2", "apgd-t L2", "fab L2", "square L2", "square Linf", "restarted L2", "apgd-ce L1"),
    *("published", "ddn", "fmn L0", "sigma-zero-swaps", "pdpgd L1", "best", "minimal apgd L2", "frank-wolfe L2"),
}
# Their steps are those of others that stay.
TRAINED = {
    *("first success L2", "best", "minimal apgd L1", "sigma-zero", "deepfool L2", "own nearest"),
    "apgd-dlr L2",
    "apgd-ce L2",
    "fab-t L2",
    "apgd-t L2",
    "square L2",
    "published",
    "ddn",
    "fmn L2",
    "fmn L1",
    "steep fmn L1",
    "pdgd",
    "apgd-ce L1 out of the box",
    *COMBINED,
    *VARIED,
    "targeted square",
    "restarted L2",
    "apgd-ce L1",
    "fab L2",
    "alma L1",
    "pdpgd L1",
    "superdeepfool",
}


def rows(names, slow):
    """A test of each, of which the default run leaves out those that can hardly fail alone."""
    return some("name", names, by_default=[name for name in names if name not in slow])


each_attack = rows(TABLE, COMBINED)
# What is left out by default where each row costs a compilation; of the targeted ones FMN stays.
ALIKE = (ALONE | {"autoattack", "first success L2"}) - {"targeted fmn"}
each_kind_of_attack = rows(TABLE, ALIKE)


def leaves_of(attack):
    return [part.attack for part in attack.parts(K)]


def labels_of(attack):
    return SECOND if attack.criterion.towards_label else LABELS


def run(attack, model, images, labels, keys):
    program = fused if isinstance(attack, FirstSuccess) else quick
    return program(attack, model, images, labels, keys)


def called(attack, model, images, labels, keys):
    return attack(model, images, labels, keys)


quick = jax.jit(called)
# Without fusion, jaxlib 0.9 rounds this program alone by the number of images.
fused = jax.jit(called, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def found_by(name):
    return jax.device_get(run(TABLE[name], MODEL, IMAGES, labels_of(TABLE[name]), KEYS))


def sizes(norm, change):
    flat = np.abs(np.asarray(change, np.float64).reshape(len(change), -1))
    if norm == "L0":
        return (flat != 0).sum(1).astype(float)
    power = POWERS.get(norm)
    return flat.max(1) if power is None else (flat**power).sum(1) ** (1 / power)


def check_result(attack, result):
    """Every field is what the contract says, and the success is one when looked at again in another batch."""
    labels, images = labels_of(attack), np.asarray(IMAGES)
    norm, stays, eps = (getattr(leaves_of(attack)[0], name, None) for name in ("norm", "stay_in_range", "eps"))
    success, change = np.asarray(result.success), np.asarray(result.adversarial, np.float64) - images
    again = np.concatenate([MODEL(pair) for pair in np.split(result.adversarial[::-1], N // 2)])[::-1]
    met = np.asarray(attack.criterion.success(jnp.asarray(again), jnp.asarray(labels)))
    assert met[success].all()
    np.testing.assert_array_equal(result.adversarial[~success], images[~success])
    for told, measured in ((result.norm, sizes(norm or "L2", change)), (result.rms, sizes("L2", change) / 108**0.5)):
        np.testing.assert_allclose(told[success], measured[success], rtol=ROUNDING, atol=1e-7)
        assert np.isinf(told[~success]).all()
    if isinstance(leaves_of(attack)[0], FixedEpsilon | FrankWolfe | Wrong):
        rounding = PIXEL_ROUNDING * sizes(norm, np.ones((1, *SHAPE)))
        assert (sizes(norm, change) <= float(eps) * (1 + 4 * PIXEL_ROUNDING) + 2 * rounding).all()
    if stays:
        assert -1e-6 <= result.adversarial.min() <= result.adversarial.max() <= 1 + 1e-6
    assert result.finite.all()
    np.testing.assert_array_equal(result.evaluations, sum(part.evaluations for part in leaves_of(attack)))
    assert (result.first_success[~success] == result.evaluations[~success]).all()
    assert (result.first_success <= result.evaluations).all()
    assert (result.first_success >= 0).all()
    if not isinstance(attack, PublishedBounded):
        # What is over the boundary to begin with needs no change, and all else needs one.
        inside = ~np.asarray(attack.criterion.success(MODEL(IMAGES), jnp.asarray(labels)))
        assert success[~inside].all()
        np.testing.assert_array_equal(result.norm[success] > 0, inside[success])
        assert (result.first_success[~inside] == 0).all()
        assert (success & inside).any(), "nothing was found"


def check_batches(attack, whole):
    """Neither order nor neighbours change a bit."""
    labels, order = labels_of(attack), np.random.default_rng(0).permutation(N)
    moved = run(attack, MODEL, IMAGES[order], labels[order], KEYS[order])
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other[order]), moved, whole)
    # Two of them among copies of a third.
    few = np.where(np.isin(np.arange(N), [1, 6]), np.arange(N), 2)
    among = run(attack, MODEL, IMAGES[few], labels[few], KEYS[few])
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other[few]), among, whole)


def check_numbers(attack, whole):
    """Nor does the number of images."""
    labels, pair = labels_of(attack), np.array([6, 1])
    alone = run(attack, MODEL, IMAGES[pair], labels[pair], KEYS[pair])
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other[pair]), alone, whole)


def check_keys(attack, whole):
    """The same key gives the same, and another one something else if that is what the attack says of itself."""
    labels = labels_of(attack)
    jax.tree.map(np.testing.assert_array_equal, run(attack, MODEL, IMAGES, labels, KEYS), whole)
    other = run(attack, MODEL, IMAGES, labels, example_keys(jax.random.key(3), jnp.arange(N)))
    same = all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(other), jax.tree.leaves(whole), strict=True))
    assert same != attack.is_random


@each_kind_of_attack
def test_results_are_what_they_say(name):
    check_result(TABLE[name], found_by(name))


@rows(BRIEF, ALIKE)
def test_results_depend_on_no_other_image(name):
    check_batches(TABLE[name], found_by(name))


@rows(BRIEF, [name for name in BRIEF if name not in NUMBERED])
def test_results_depend_on_no_number_of_images(name):
    check_numbers(TABLE[name], found_by(name))


@rows(BRIEF, ALIKE)
def test_draws_depend_on_the_key_alone(name):
    check_keys(TABLE[name], found_by(name))


@rows([*IN_LANES, *SLOWLY_IN_LANES], SLOWLY_IN_LANES)
def test_analyses_give_the_same_in_any_number_of_lanes_and_chunks(name, monkeypatch):
    """Chunks are of 8, 4 and 2 images, for lanes share them."""
    attack = TABLE[name]
    results = []
    for lanes in LANES:
        monkeypatch.setenv("ADVX_LANES", lanes)
        if isinstance(leaves_of(attack)[0], FixedEpsilon):
            results.append(robust_accuracy(MODEL, IMAGES, LABELS, attack))
        else:
            results.append(boundary_distances(MODEL, IMAGES, LABELS, attack))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5)
    if isinstance(leaves_of(attack)[0], FixedEpsilon):
        assert results[0] < accuracy(MODEL, IMAGES, LABELS) == 1 - 1 / N
    else:
        assert ((results[0] > 0) & np.isfinite(results[0])).any()
        assert results[0][WRONG] == 0


def other_numbers(attack):
    """The same attack within half the ball, where it has one."""
    try:
        return attack.with_settings(eps=attack.parts(K)[0].attack.eps / 2)
    except (AttributeError, UserError):
        return attack


@rows([*DISTINCT, "targeted square"], TRAINED)
def test_attacks_run_inside_a_training_step_under_scan_and_vmap(name):
    """Compiled as one, mapped over settings, and within the function whose gradient moves the weights."""
    attack = TABLE[name]
    labels = labels_of(attack)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), attack, other_numbers(attack))

    @jax.jit
    def train(both, begun):
        def loss(now):
            frozen = jax.tree_util.Partial(network, jax.lax.stop_gradient(now))
            results = jax.vmap(lambda one: one(frozen, IMAGES, labels, KEYS))(both)
            logits = network(now, results.adversarial[0])
            return -jax.nn.log_softmax(logits)[jnp.arange(N), labels].mean(), results

        def step(now, _):
            (_, results), gradient = jax.value_and_grad(loss, has_aux=True)(now)
            return jax.tree.map(lambda w, g: w - 0.01 * g, now, gradient), results

        return jax.lax.scan(step, begun, length=2)

    trained, results = train(both, weights())
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in trained)
    for place, expected in enumerate((found_by(name), run(other_numbers(attack), MODEL, IMAGES, labels, KEYS))):
        inside = jax.tree.map(lambda leaf, place=place: leaf[0, place], results)
        np.testing.assert_array_equal(inside.success, expected.success)
        np.testing.assert_array_equal(inside.evaluations, expected.evaluations)
        np.testing.assert_allclose(inside.norm, expected.norm, rtol=COMPILATION, atol=1e-6)
    assert all(bool((now != before).any()) for now, before in zip(trained, weights(), strict=True))


@each_attack
def test_attacks_are_pytrees_whose_settings_fit_into_json(name):
    attack = TABLE[name]
    leaves, structure = jax.tree.flatten(attack)
    assert leaves
    assert all(isinstance(leaf, int | float) for leaf in leaves)
    assert jax.tree.unflatten(structure, leaves) == attack
    # Other numbers need no compilation.
    assert jax.tree.structure(other_numbers(attack)) == structure
    settings = json.loads(json.dumps(attack.settings(), allow_nan=False))
    assert settings
    if not isinstance(attack, AutoAttack):
        assert attack.with_settings(steps=attack.n_steps + 2).settings() != settings
    assert attack.until(Targeted()).criterion == Targeted()


@pytest.mark.parametrize(
    "name",
    ["apgd-t L2", "fab L2", "fab-t Linf", "first success L2", "autoattack", "minimal apgd-t Linf", "deepfool L2"],
)
def test_attacks_with_targets_of_their_own_take_no_others(name):
    with pytest.raises(UserError, match=r"expected a criterion that leads away from labels for .*, got Targeted"):
        TABLE[name].until(Targeted())(MODEL, IMAGES, LABELS)


def test_the_table_has_every_attack():
    offered = [thing for thing in map(vars(package).get, package.__all__) if isinstance(thing, type)]
    # Those that cannot be run by themselves are bases.
    runnable = {kind for kind in offered if issubclass(kind, Attack) and not is_base(kind)}
    in_table = {type(attack) for attack in TABLE.values()} | {
        type(part) for a in TABLE.values() for part in leaves_of(a)
    }
    assert len(runnable) >= 14
    assert runnable <= in_table


def is_base(kind):
    names = ("members",) if issubclass(kind, package.Ensemble) else ("step", "result")
    return any(getattr(kind, name) in {getattr(Attack, name, None), package.Ensemble.members} for name in names)


@struct.dataclass(kw_only=True)
class Wrong(PGD):
    """PGD that breaks a rule."""

    steps: int = struct.field(pytree_node=False, default=3)


@struct.dataclass(kw_only=True)
class Leaves(Wrong):
    """Goes farther than it may."""

    def project(self, images, candidates):
        return jnp.clip(images + 3 * (candidates - images), 0, 1)


@struct.dataclass(kw_only=True)
class LeavesTheBox(Wrong):
    """Keeps to the ball only."""

    def project(self, images, candidates):
        return super().project(images - 5, candidates - 5) + 5


@struct.dataclass(kw_only=True)
class Claims(Wrong):
    """Says that every image is broken."""

    def result(self, model, images, labels, state):
        honest = super().result(model, images, labels, state)
        zero = jnp.zeros_like(honest.norm)
        return honest._replace(success=honest.success | True, norm=zero, rms=zero)


@struct.dataclass(kw_only=True)
class Mixes(Wrong):
    """Follows the gradients of all images together."""

    def step(self, model, images, labels, state):
        gradient = state.gradient.mean(0, keepdims=True) + 0 * state.gradient
        return super().step(model, images, labels, state._replace(gradient=gradient))


@struct.dataclass(kw_only=True)
class Forgets(Wrong):
    """Draws, and says that it does not."""

    is_random = False


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Leaves, check_result),
        (LeavesTheBox, check_result),
        (Claims, check_result),
        (Mixes, check_batches),
        (Mixes, check_numbers),
        (Forgets, check_keys),
    ],
)
def test_an_attack_that_breaks_a_rule_fails_the_table(kind, check):
    attack = kind(eps=4.0 if kind is LeavesTheBox else EPS["L2"], norm="L2")
    honest = Wrong(**{field.name: getattr(attack, field.name) for field in dataclasses.fields(attack)})
    check(honest, run(honest, MODEL, IMAGES, LABELS, KEYS))
    with pytest.raises(AssertionError):
        check(attack, run(attack, MODEL, IMAGES, LABELS, KEYS))
