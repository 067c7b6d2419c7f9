"""What `import advx_jax as ax` offers, in exactly these forms."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest

import advx_jax as ax
from advx_jax.errors import UserError

LATE = ("tensorflow_datasets", "matplotlib", "orbax", "optax", "flax", "jax")


@pytest.fixture(scope="module")
def few():
    model, data = ax.load_model("resnet20-quick-robust"), ax.load_images("sample")
    return model, data.images[:4], data.labels[:4], data.class_names


def test_everything_that_is_offered_is_there():
    assert set(ax.__all__) <= set(dir(ax))
    for name in ax.__all__:
        assert getattr(ax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'explain_imags'"):
        _ = ax.explain_imags


def test_types_are_those_of_the_lazy_names():
    tree = ast.parse(Path(ax.__file__).read_text(encoding="utf-8"))
    (guard,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in guard.body for alias in node.names}
    assert set(typed) == set(ax.__all__)
    assert {name: module for name, module in typed.items() if name != "attacks"} == ax._MODULES


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


def test_attacks(few):
    model, x, y, _ = few
    r = ax.attacks.APGD(eps=0.5, norm="L2", steps=5)(model, x, y, key=jax.random.key(0))
    assert isinstance(r, ax.AttackResult)
    assert r.adversarial.shape == x.shape
    assert {field.shape for field in (r.success, r.norm, r.rms, r.finite, r.evaluations)} == {(4,)}
    assert (np.isinf(r.norm) == ~r.success).all()
    again = ax.attacks.APGD(eps=0.5, norm="L2", steps=5)(model, x, y, key=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again, r)


def test_distances_and_areas(few):
    model, x, y, _ = few
    d = ax.boundary_distances(model, x, y, attack=ax.attacks.FMN(norm="L2", steps=10))
    direct = ax.attacks.FMN(norm="L2", steps=10)(model, x, y)
    np.testing.assert_allclose(d, direct.rms, rtol=0.02)
    area = ax.accuracy_robustness_area(d, n_classes=10)
    assert 0 <= area < 1 or np.isinf(area)


def test_accuracies(few):
    model, x, y, _ = few
    clean = ax.accuracy(model, x, y)
    left = ax.robust_accuracy(model, x, y, attack=ax.attacks.PGD(eps=8 / 255, norm="Linf", steps=3))
    assert 0 <= left <= clean <= 1
    predicted = ax.predict(model, x)
    np.testing.assert_allclose(predicted.confidences.sum(-1), 1, rtol=1e-5)
    assert clean == np.mean(predicted.classes == y)


def test_explanations(few, tmp_path):
    model, x, y, names = few
    quick = ax.attacks.EXPLANATION.replace(steps=2)
    explained = ax.explain_images(model, x[:2], labels=y[:2], class_names=names, output=tmp_path / "out", attack=quick)
    assert [e.perturbations.shape for e in explained] == [(10, 32, 32, 3)] * 2
    results = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert [entry["label"] for entry in results["images"]] == y[:2].tolist()
    np.testing.assert_allclose(results["images"][0]["rms"], explained[0].rms, rtol=1e-5)
    assert (tmp_path / "out" / "index.html").exists()
    (only,) = ax.explain_images(lambda images: images.mean((1, 2)), x[:1], attack=quick)
    assert only.perturbations.shape == (3, 32, 32, 3)
    with pytest.raises(UserError, match="expected a Classifier where explanations are written, got function"):
        ax.explain_images(lambda images: images.mean((1, 2)), x[:1], output=tmp_path / "none")


def test_networks_are_saved_and_loaded(few, tmp_path):
    model, _, _, _ = few
    ax.save_model(tmp_path / "mine.safetensors", model, name="mine")
    again = ax.load_model(str(tmp_path / "mine.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
    with pytest.raises(UserError, match="did you mean resnet20-quick-robust"):
        ax.load_model("resnet20-quick-robst")
