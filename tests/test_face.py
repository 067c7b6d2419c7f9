"""What `import advx_jax as ax` offers, in exactly these forms."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest
from networks import random_classifier

import advx_jax as ax
from advx_jax.errors import UserError

LATE = ("tensorflow_datasets", "matplotlib", "orbax", "optax", "flax", "jax")


@pytest.fixture(scope="module")
def few():
    model, data = ax.load_model("resnet20-quick-robust"), ax.load_images("sample")
    return model, data.images[:4], data.labels[:4], data.class_names


@pytest.fixture(scope="module")
def tiny():
    """A network that is compiled in no time, for where any will do; it takes all images but one for what they are."""
    model, data = random_classifier(), ax.load_images("sample")
    labels = np.array(ax.predict(model, data.images[:4]).classes)
    labels[0] = (labels[0] + 1) % 10
    return model, data.images[:4], labels, data.class_names


def test_everything_that_is_offered_is_there():
    assert set(ax.__all__) <= set(dir(ax))
    for name in ax.__all__:
        assert getattr(ax, name) is not None
    assert {name for name in dir(ax) if not name.startswith("__")} == set(ax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'explain_imags'"):
        _ = ax.explain_imags


def test_types_are_those_of_the_lazy_names():
    tree = ast.parse(Path(ax.__file__).read_text(encoding="utf-8"))
    (guard,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in guard.body for alias in node.names}
    assert set(typed) == set(ax.__all__)
    assert {name: module for name, module in typed.items() if name not in ax._WHOLE} == ax._MODULES


def test_importing_loads_little_and_changes_only_what_keeps_a_jaxlib_right():
    code = "; ".join(
        [
            "import os, sys; before = dict(os.environ); import advx_jax",
            "print(*sys.modules)",
            "print(*(name for name in os.environ if os.environ[name] != before.get(name)))",
        ]
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    modules, changed = run.stdout.split("\n")[:2]
    assert not set(LATE) & set(modules.split())
    needs_flag = tuple(map(int, jaxlib.__version__.split(".")[:2])) in ax._runtime._WITHOUT_FUSION
    assert changed.split() == ["XLA_FLAGS"] * needs_flag


USER_PROGRAM = """
import jax
import numpy as np

import advx_jax as ax

model: ax.Classifier = ax.load_model("resnet20-quick-robust")
data: ax.Images = ax.load_images("sample")
x, y = data.images[:16], data.labels[:16]
r: ax.AttackResult = ax.attacks.APGD(eps=0.5, norm="L2", steps=20)(model, x, y, key=jax.random.key(0))
print(r.success, r.adversarial, r.norm, r.rms, r.finite, r.first_success, r.evaluations)
d = ax.boundary_distances(model, x, y, attack=ax.attacks.FMN(norm="L2", steps=100), progress=True)
area: float = ax.accuracy_robustness_area(d, n_classes=10)
left: float = ax.robust_accuracy(model, x, y, attack=ax.attacks.PGD(eps=8 / 255, norm="Linf", steps=20))
clean: float = ax.accuracy(model, x, y, progress=False)
predictions: ax.Predictions = ax.predict(model, x, on_progress=lambda n: print(n))
print(predictions.logits, predictions.classes, predictions.confidences, predictions.accuracy(y))
explained: ax.Explanations = ax.explain_images(model, x[:2], labels=y[:2], class_names=data.class_names, output="out")
one: ax.Explanation = explained[0]
some: ax.Explanations = explained[:1]
print(one.pictures, one.image, one.label, one.class_names, [other.rms.max() for other in explained])
ax.save_model("mine.safetensors", model, name="mine")
attacks = [ax.attacks.AutoAttack(eps=0.5, norm="L2"), ax.attacks.Published(criterion=ax.NoBetterThanRandom())]
for attack in [*attacks, ax.attacks.PGD(eps=1, norm="L2", criterion=ax.Targeted())]:
    print(ax.robust_accuracy(lambda images: images.mean((1, 2)), np.zeros((1, 4, 4, 3)), [0], attack))
quick = ax.attacks.EXPLANATION.with_settings(steps=2).until(ax.Misclassified())
own: ax.OwnClassifier = ax.normalized(ax.from_function(lambda images: images.mean((1, 2))), (0.5,) * 3, (0.25,) * 3)
drawing: ax.RandomClassifier = ax.from_random_function(lambda images, keys: images.mean((1, 2)) + keys.ndim)
print(ax.robust_accuracy(drawing, x, y, ax.attacks.AutoAttack(eps=0.5, norm="L2", version="rand")))
attributed = ax.attribute_images(model, x[:2], y[:2], ax.attribution.Gradient(), progress=False)
scores = ax.score_attributions(model, x[:2], y[:2], ["gradient", "adversarial"], ["deletion", "road"], progress=False)
print(scores["gradient"]["road"].mean())
print(attributed.shape, own.n_classes, ax.from_linen, ax.from_nnx, ax.from_equinox, ax.from_haiku)
ax.explain_images(model, x, attack=quick)
compared = ax.explain_images(model, x, norm="Linf", methods=["smoothgrad", ax.attribution.IntegratedGradients(steps=8)])
if compared[0].comparison is not None:
    print(compared[0].comparison.attributions["smoothgrad"].shape, compared[0].comparison.quality.valid)
try:
    ax.load_model("nothing")
except ax.UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_program_that_uses_all_of_it_is_typed(tmp_path):
    """As somebody's own checker sees it, with all that it can be strict about."""
    pytest.importorskip("mypy")
    assert all(f"ax.{name}" in USER_PROGRAM for name in ax.__all__)
    (tmp_path / "program.py").write_text(USER_PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "program.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout == found.stderr == ""
    assert found.returncode == 0


def test_what_is_offered_is_shown_in_a_line(few, tiny):
    model, x, y, _ = few
    shown = {
        "Classifier(ResNet-20, half_huber, 10 classes, images of 32×32×3, 292,762 parameters, sha256 ": model,
        "Images(256 images of 32×32×3, 10 classes: airplane, automobile, bird, …; ": ax.load_images("sample"),
        "Predictions(4 images, 10 classes, median confidence 0.": ax.predict(model, x),
        "Predictions(0 images, 10 classes)": ax.Predictions(np.zeros((0, 10))),
        "AttackResult(4 images of 32×32×3, success on ": ax.attacks.PGD(eps=0.5, norm="L2", steps=2)(tiny[0], x, y),
    }
    for start, value in shown.items():
        assert repr(value).startswith(start)
        assert len(repr(value)) < 200
        assert "\n" not in repr(value)
    unknown = ax.Predictions(np.array([[np.nan, 1], [0, 1]]))
    assert repr(unknown).endswith(", 1 without a class)")


def test_what_has_no_values_is_shown_without(few, tiny):
    model, x, y, _ = few
    seen = []
    jax.eval_shape(lambda m: seen.append(repr(m)), model)
    seen.append(repr(jax.tree.map(lambda leaf: 0, model)))
    assert set(seen) == {"Classifier(ResNet-20, half_huber, 10 classes, images of 32×32×3)"}
    result = ax.attacks.PGD(eps=0.5, norm="L2", steps=2)(tiny[0], x, y)
    jax.eval_shape(lambda r: seen.append(repr(r)), result)
    assert "adversarial=" in seen[-1]
    assert repr(jax.tree.map(np.shape, result)).startswith("AttackResult(adversarial=(4, 32, 32, 3), success=(4,)")
    nothing = result._replace(success=np.zeros(4, bool), finite=np.array([True, False, True, True]))
    assert repr(nothing) == "AttackResult(4 images of 32×32×3, success on 0, at most 3 evaluations, 1 not finite)"
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * 3), result)
    assert repr(stacked).startswith("AttackResult(3×4 images of 32×32×3, success on ")


def test_attacks(tiny):
    model, x, y, _ = tiny
    r = ax.attacks.APGD(eps=0.5, norm="L2", steps=5)(model, x, y, key=jax.random.key(0))
    assert isinstance(r, ax.AttackResult)
    assert r.adversarial.shape == x.shape
    assert {field.shape for field in (r.success, r.norm, r.rms, r.finite, r.evaluations)} == {(4,)}
    assert (np.isinf(r.norm) == ~r.success).all()
    again = ax.attacks.APGD(eps=0.5, norm="L2", steps=5)(model, x, y, key=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again, r)


def test_distances_and_areas(tiny):
    model, x, y, _ = tiny
    d = ax.boundary_distances(model, x, y, attack=ax.attacks.FMN(norm="L2", steps=10))
    direct = ax.attacks.FMN(norm="L2", steps=10)(model, x, y)
    np.testing.assert_allclose(d, direct.rms, rtol=0.02)
    area = ax.accuracy_robustness_area(d, n_classes=10)
    assert 0 <= area < 1 or np.isinf(area)


def test_accuracies(tiny):
    model, x, y, _ = tiny
    clean = ax.accuracy(model, x, y)
    left = ax.robust_accuracy(model, x, y, attack=ax.attacks.PGD(eps=8 / 255, norm="Linf", steps=3))
    assert 0 <= left <= clean == 0.75
    predicted = ax.predict(model, x)
    np.testing.assert_allclose(predicted.confidences.sum(-1), 1, rtol=1e-5)
    assert clean == np.mean(predicted.classes == y)


def test_explanations(tiny, tmp_path):
    model, x, y, names = tiny
    quick = ax.attacks.EXPLANATION.replace(steps=2)
    explained = ax.explain_images(model, x[:2], labels=y[:2], class_names=names, output=tmp_path / "out", attack=quick)
    assert [e.perturbations.shape for e in explained] == [(10, 32, 32, 3)] * 2
    results = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert [entry["label"] for entry in results["images"]] == y[:2].tolist()
    np.testing.assert_allclose(results["images"][0]["rms"], explained[0].rms, rtol=1e-5)
    assert (tmp_path / "out" / "index.html").exists()
    # Made once, of the pixels that are written; a second call finds them there, and makes only what it returns.
    again = ax.explain_images(model, x[:2], labels=y[:2], class_names=names, output=tmp_path / "out", attack=quick)
    np.testing.assert_array_equal(again[1].perturbations, explained[1].perturbations)
    assert [(e.label, e.class_names) for e in explained] == [(label, names) for label in y[:2]]
    np.testing.assert_array_equal(explained[0].image, x[0])
    with pytest.raises(UserError, match="expected names of the model's 10 classes, got 2"):
        ax.explain_images(model, x[:1], class_names=("cat", "dog"))
    thirds = lambda images: images.mean((1, 2))  # noqa: E731
    (only,) = ax.explain_images(thirds, x[:1], attack=quick)
    assert only.perturbations.shape == (3, 32, 32, 3)
    assert only.comparison is None
    ax.explain_images(thirds, x[:1], output=tmp_path / "own", attack=quick, name="thirds")
    assert json.loads((tmp_path / "own" / "explanations.json").read_text())["settings"]["model"] == "thirds"

    # In another norm, beside another method; as often as one likes, with files or without.
    given = {"norm": "linf", "methods": "adversarial,gradient", "targets": "0,2"}
    for output in (None, tmp_path / "both", tmp_path / "both"):
        (compared,) = ax.explain_images(thirds, x[:1], output=output, **given)
        assert np.abs(compared.perturbations).max() <= 8.001 / 255
        found = compared.comparison.attributions
        np.testing.assert_array_equal(found["adversarial"], compared.perturbations)
        np.testing.assert_allclose(found["gradient"].sum((1, 2)), np.eye(3)[[0, 2]], rtol=1e-5)
        assert compared.comparison.quality.linf.shape == (2,)
    with pytest.raises(UserError, match="expected attack or norm, got both"):
        ax.explain_images(thirds, x[:1], attack=quick, norm="L2")
    away = ax.attacks.FrankWolfe(eps=8 / 255, norm="Linf", steps=2)
    with pytest.raises(UserError, match=r"criterion Targeted\(\) for explanations, got misclassified"):
        ax.explain_images(thirds, x[:1], attack=away)


@pytest.mark.usefixtures("unchecked")
def test_explanations_are_made_by_attacks_that_keep_their_change(few):
    model, x, _, _ = few
    with pytest.raises(UserError, match=r"expected an attack that makes explanations, .* got PGD\("):
        ax.explain_images(model, x[:1], attack=ax.attacks.PGD(eps=0.1, norm="L2", criterion=ax.Targeted()))


def test_networks_are_saved_and_loaded(few, tmp_path):
    model, _, _, _ = few
    ax.save_model(tmp_path / "mine.safetensors", model, name="mine")
    again = ax.load_model(str(tmp_path / "mine.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
    with pytest.raises(UserError, match="did you mean resnet20-quick-robust"):
        ax.load_model("resnet20-quick-robst")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("ax.robust_accuracy(model, x, y, attack='pgd')", "expected an attack such as .*, got 'pgd'"),
        ("ax.robust_accuracy(model, x, y, attack=ax.attacks.FMN(steps=3))", "expected an attack within an eps"),
        pytest.param(
            "ax.robust_accuracy(model, x, y, attack=ax.attacks.Published())",
            "expected an attack within an eps",
            marks=pytest.mark.slow,
        ),
        ("ax.boundary_distances(model, x, y, attack='fmn')", "expected an attack such as .*, got 'fmn'"),
        ("ax.attacks.FMN(steps=3)(model, x, y, key=0)", r"expected a key such as jax\.random\.key\(0\), got 0"),
        (
            "ax.save_model(model, 'network.safetensors')",
            r"expected save_model\(path, model\) with .*, got str",
        ),
    ],
)
def test_what_is_given_by_mistake_is_answered_in_one_line(call, message):
    """Without the checks of types that tests switch on."""
    code = f"import advx_jax as ax\nmodel = lambda x: x.reshape(len(x), -1)\nx, y = [[[[0.5], [0.2]]]], [0]\n{call}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(f"^advx_jax.errors.UserError: {message}", run.stderr, flags=re.MULTILINE), run.stderr
