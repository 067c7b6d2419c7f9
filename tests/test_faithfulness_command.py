"""The faithfulness command: one run of it on a tiny network, and what it is made of."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explained import linear_case
from networks import random_classifier
from processes import fail, succeed
from stores import change_record, kept_records

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.attribution import (
    AdversarialExplanation,
    GradCAM,
    Gradient,
    Magnitude,
    attribute_images,
    find_method,
)
from advx_jax.analysis.faithfulness import counterfactual_quality, find_metric
from advx_jax.analysis.faithfulness.scoring import by_name, score_attributions
from advx_jax.attacks import example_keys
from advx_jax.cli.named_flags import read_named
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.data.sample import load_sample
from advx_jax.errors import UserError
from advx_jax.networks.adapters import from_function
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.registry import OwnModel
from advx_jax.reports.faithfulness_files import read_faithfulness
from advx_jax.runs.faithfulness import Faithfulness
from advx_jax.runs.measurement import measure
from advx_jax.runs.step_times import StepTimes

N = 6
FLAGS = (
    *("--model=tiny.safetensors", f"--n_images={N}", "--seed=3"),
    "--methods=gradient,adversarial,random",
    "--metrics=deletion(steps=4),random-logit",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a call, and what it printed."""
    folder = tmp_path_factory.mktemp("faithfulness")
    save_network(folder / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    return folder, succeed(folder, "faithfulness", *FLAGS)


def results_of(folder):
    return json.loads((folder / "faithfulness" / "tiny" / "faithfulness.json").read_text())


@pytest.mark.slow
def test_scores_are_those_of_the_methods_and_metrics_themselves(run):
    folder, _ = run
    results, kept = results_of(folder), kept_records(folder / "faithfulness" / "tiny" / "faithfulness.jsonl")
    classifier, images = random_classifier(), unit_images(load_sample().images[:N])
    logits = predict(classifier, images).logits
    targets, second = np.argsort(-logits)[:, :2].T.astype(np.int32)
    keys = example_keys(jax.random.key(3), jnp.arange(N))
    method, metric = find_method("gradient"), find_metric("deletion", steps=4)
    deletion = metric(classifier, images, targets, attribute_images(classifier, images, targets, method), keys)
    random_logit = find_metric("random_logit")(classifier, images, targets, method, keys)
    for index in range(N):
        assert (kept[str(index)]["target"], kept[str(index)]["second"]) == (targets[index], second[index])
        found = kept[str(index)]["methods"]["gradient"]
        np.testing.assert_allclose(list(found.values()), [deletion[index], random_logit[index]], rtol=1e-4, atol=1e-5)
    told = results["metrics"]["deletion"]["methods"]["gradient"]
    assert told["mean"] == pytest.approx(float(np.mean(deletion)), rel=1e-4)
    assert told["low"] <= told["mean"] <= told["high"]
    assert told["n"] == N

    explained = images + AdversarialExplanation()(classifier, images, second)
    quality = counterfactual_quality(classifier, images, explained, second)
    judged = results["counterfactuals"]["adversarial"]
    assert list(results["counterfactuals"]) == ["adversarial"]
    assert judged["valid"]["mean"] == pytest.approx(float(np.mean(quality.valid)))
    assert judged["rms"]["mean"] == pytest.approx(float(np.mean(quality.rms)), rel=1e-4)


def test_what_is_printed_tells_cost_means_and_what_is_best(run):
    folder, out = run
    results = results_of(folder)
    # Deletion: 5 passes; random logit: 2 attributions. Of adversarial 105 each, and one towards another class.
    costs = {"gradient": 3 + 5 + 6, "adversarial": 105 + (105 + 3) + 5 + 210, "random": 5}
    assert {name: sum(steps.values()) for name, steps in results["passes"].items()} == costs
    assert f"3 methods, 2 metrics: {sum(costs.values())} passes through the network an image" in out
    assert f"explanations of the network's top class of the first {N} test images" in out
    metric = results["metrics"]["deletion"]
    means = {name: one["mean"] for name, one in metric["methods"].items() if name != "random"}
    assert metric["best"] == min(means, key=means.get)
    (line,) = [line for line in out.splitlines() if line.startswith(metric["best"])][:1]
    assert "]*" in line
    assert "deletion ↓" in out
    assert "towards the likeliest other class" in out
    for name in ("faithfulness.png", "faithfulness.svg"):
        assert (folder / "faithfulness" / "tiny" / name).stat().st_size


def test_a_call_goes_on_from_what_is_there_and_refuses_other_settings(run):
    folder, _ = run
    path = folder / "faithfulness" / "tiny" / "faithfulness.jsonl"
    before = path.read_text()
    # What a killed call had not come to: one method of one image.
    record = kept_records(path)["2"]
    changed = record | {"methods": {"gradient": {"deletion": 9.0, "random_logit": None}}, "counterfactuals": {}}
    change_record(path, "2", changed)
    beside = folder / "other"
    beside.mkdir()
    (beside / "faithfulness.json").write_bytes((path.parent / "faithfulness.json").read_bytes())
    out = succeed(folder, "faithfulness", *FLAGS, f"--beside={beside}")
    assert "best methods:" in out
    again = kept_records(path)["2"]
    assert again["methods"]["gradient"] == changed["methods"]["gradient"]
    assert {**again["methods"], "gradient": 0} == {**record["methods"], "gradient": 0}
    assert again["counterfactuals"] == record["counterfactuals"]
    results = results_of(folder)
    assert results["metrics"]["random_logit"]["methods"]["gradient"]["n"] == N - 1
    assert "left out of that mean" in out
    message = fail(folder, "faithfulness", *FLAGS, "--seed=4")
    assert "seed=3 there, 4 now" in message
    path.write_text(before)


@pytest.mark.parametrize(
    "change",
    [
        {"target": 10},
        {"methods": {"gradient": {"deletion": 1.0}}},
        {"methods": {"gradient": {"deletion": "x", "random_logit": 0.0}}},
        {"methods": {"other": {"deletion": 1.0, "random_logit": 0.0}}},
        {"counterfactuals": {}},
        {"more": 1},
    ],
)
def test_records_that_are_none_are_made_again(change, run, tiny_data):
    kept = kept_records(run[0] / "faithfulness" / "tiny" / "faithfulness.jsonl")["0"]
    methods = {name: find_method(name) for name in ("gradient", "adversarial", "random")}
    metrics = {"deletion": find_metric("deletion", steps=4), "random_logit": find_metric("random_logit")}
    network = OwnModel(random_classifier(), Provenance(name="tiny"))
    measurement = Faithfulness(network, tiny_data, N, methods, metrics, "predicted", 3, run[0] / "unused")
    assert measurement.is_valid("0", kept)
    assert not measurement.is_valid("0", kept | change)


@pytest.fixture(scope="module")
def tiny_data():
    images = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), np.uint8)
    return ImageSet(images, np.arange(N), CIFAR10_CLASSES, "a test")


def test_a_function_of_ones_own_is_scored_and_told_what_it_cannot_have(tiny_data, tmp_path):
    own = from_function(lambda images: (images.mean((1, 2)) @ jnp.ones((3, 10))) * jnp.arange(10.0))
    network = OwnModel(own.of_images((32, 32, 3), 10), Provenance(name="own"))
    methods = {name: find_method(name) for name in ("gradient", "grad_cam")}
    metrics = {name: find_metric(name) for name in ("sparseness", "parameter_randomisation")}
    chosen = network, tiny_data, N, methods, metrics, "label", 0
    scores = Faithfulness(*chosen, tmp_path)
    assert [note.partition(":")[0] for note in scores.notes] == [
        "parameter_randomisation is left out",
        "grad_cam is left out",
    ]
    assert "\n".join(scores.notes) in scores.cost_in_words()
    text = measure(scores).text
    assert "of the real class" in text
    assert kept_records(tmp_path / "faithfulness.jsonl")["4"]["target"] == 4
    for name in ("parameter_randomisation", "grad_cam"):
        with pytest.raises(UserError, match=f"^{name}: expected a"):
            Faithfulness(*chosen, tmp_path, frozenset([name]))


def test_scores_from_python_do_not_depend_on_the_batch():
    case = linear_case()
    metrics = {"short": find_metric("deletion", steps=3), "road": find_metric("road")}
    methods = ["input_x_gradient", Gradient()]
    whole = score_attributions(case.model, case.images, case.targets, methods, metrics, jax.random.key(1))
    assert list(whole) == ["input_x_gradient", "gradient"]
    assert list(whole["gradient"]) == ["short", "road"]
    keys = example_keys(jax.random.key(1), jnp.arange(1, 3))
    part = score_attributions(case.model, case.images[1:3], case.targets[1:3], methods, metrics, keys)
    for method in whole:
        for metric in metrics:
            np.testing.assert_allclose(part[method][metric], whole[method][metric][1:3], rtol=1e-4)
    assert (
        score_attributions(case.model, case.images[:0], case.targets[:0], methods, "road")["gradient"]["road"].size == 0
    )


@pytest.mark.parametrize(
    ("methods", "metrics", "message"),
    [
        ([], ["road"], "expected methods, got none"),
        (["gradient", Gradient()], ["road"], "methods of different names, got gradient twice"),
        (["gradint"], ["road"], "did you mean gradient"),
    ],
)
def test_what_cannot_be_scored_is_refused(methods, metrics, message):
    case = linear_case()
    with pytest.raises(UserError, match=message):
        score_attributions(case.model, case.images, case.targets, methods, metrics)


@pytest.mark.parametrize(("what", "find"), [("methods", find_method), ("metrics", find_metric)])
def test_what_is_no_method_or_metric_is_refused(what, find):
    with pytest.raises(UserError, match=f"expected {what} as names or [A-Z][a-z]+s, got 3"):
        by_name([3], find, what)
    name = {"methods": "gradient", "metrics": "road"}[what]
    assert by_name({"mine": name}, find, what) == {"mine": find(name)}


def test_names_with_settings_are_read():
    found = read_named("Grad-CAM, smoothgrad(samples=4, sigma=0.5),smoothgrad", find_method, "methods")
    assert list(found) == ["grad_cam", "smoothgrad(samples=4,sigma=0.5)", "smoothgrad"]
    assert found["smoothgrad(samples=4,sigma=0.5)"].samples == 4
    found = read_named("deletion(steps=2,baseline=mean),road(fractions=(0.1,0.5))", find_metric, "metrics")
    assert found["deletion"].baseline == "mean"
    assert found["road"].fractions == (0.1, 0.5)
    found = read_named("smoothgrad(samples=2,of=grad-cam(upsample=False)),vargrad(of=saliency)", find_method, "methods")
    assert found["smoothgrad"].of == GradCAM(upsample=False)
    assert found["vargrad"].of == Magnitude(of=Gradient())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , ", "expected names in --metrics, got ' , '"),
        ("road,road", "once, or with other settings, in --metrics, got road twice"),
        ("road(", r"name\(setting=1\), in --metrics, got 'road\('"),
        ("road(noise)", r"name=value in the brackets of --metrics, got 'road\(noise\)'"),
        ("road(nois=1)", "nois"),
        ("rod", "did you mean road"),
    ],
)
def test_names_that_are_none_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_named(text, find_metric, "metrics")


@pytest.mark.parametrize(
    ("text", "find", "message"),
    [
        ("smoothgrad(of=grad_cm)", find_method, "did you mean grad_cam"),
        ("vargrad(of=3)", find_method, "got '3'"),
        ("adversarial(attack=pgd)", find_method, "as attack, got 'pgd'"),
        ("grad_cam(upsample=no)", find_method, "expected True or False as upsample, got 'no'"),
        ("random_logit(absolute=1)", find_metric, "expected True or False as absolute, got 1"),
        ("parameter_randomisation(seed=x)", find_metric, "whole number of at least 0 as seed, got 'x'"),
        ("parameter_randomisation(modules=head)", find_metric, "tuple of names as modules, got 'head'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_of_another_kind_are_refused(text, find, message):
    with pytest.raises(UserError, match=message):
        read_named(text, find, "settings")


def test_the_time_left_counts_compilation_apart_from_speed():
    times = StepTimes({"a": 1.0, "b": 10.0, "free": 0.0}, lanes=1)
    assert times.seconds_left() is None
    for kind in ("a", "b", "free"):
        times.wait(kind, 40)
    # 5 seconds of compilation, then 0.1 s an image.
    times.took("a", 10, 10, 6.0)
    for _ in range(3):
        times.took("a", 10, 10, 1.0)
    # Left: 40 of "b" at ten times the cost, and two kinds to compile.
    assert times.seconds_left() == pytest.approx(40 * 1.0 + 2 * 5)
    times.took("b", 10, 10, 30.0)
    times.took("b", 10, 5, 2.0)
    assert times.seconds_left() == pytest.approx(25 * 0.2 + np.mean([5, 28]))


def test_results_of_other_commands_are_not_shown_beside(tmp_path):
    path: Path = tmp_path / "ara.json"
    path.write_text(json.dumps({"format": 1, "command": "ara"}))
    with pytest.raises(UserError, match=r"expected results of faithfulness in .*, got results of ara"):
        read_faithfulness(path)


MEAN = {"mean": None, "low": 0.1, "high": 1}


@pytest.mark.parametrize(
    ("settings", "metric", "fault"),
    [
        ({"model": "tiny"}, {"best": None, "methods": {}}, "n_images"),
        ({"model": None, "n_images": 2}, {"best": None, "methods": {}}, "ValueError"),
        ({"model": "tiny", "n_images": 2}, {"methods": {}}, "best"),
        ({"model": "tiny", "n_images": 2}, {"best": "b", "methods": {"a": MEAN}}, "a best method that is none"),
        ({"model": "tiny", "n_images": 2}, {"best": "a", "methods": {"a": MEAN | {"low": "x"}}}, "no number"),
        ({"model": "tiny", "n_images": 2}, {"best": "a", "methods": {"a": MEAN}}, None),
    ],
)
def test_damaged_results_are_not_shown_beside(settings, metric, fault, tmp_path):
    results = {"format": 1, "command": "faithfulness", "settings": settings, "metrics": {"road": metric}}
    path: Path = tmp_path / "faithfulness.json"
    path.write_text(json.dumps(results))
    if fault is None:
        assert read_faithfulness(path) == results
        return
    with pytest.raises(UserError, match=f"expected results of faithfulness in .*{fault}"):
        read_faithfulness(path)
