"""Explanations towards some of many classes: which they are, that they equal those among all, and their pictures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import advx_jax as ax
from advx_jax.analysis import chunks
from advx_jax.analysis.chunks import evenly
from advx_jax.analysis.explanations import ExplanationChunk, explain
from advx_jax.analysis.targets import ALL_CLASSES, Targets, chosen_targets, targets_named
from advx_jax.attacks import EXPLANATION
from advx_jax.errors import UserError

SHAPE, K, N = (6, 5, 3), 30, 3
NAMES = tuple(f"kind {number}" for number in range(K))
IMAGES = np.random.default_rng(1).uniform(size=(N, *SHAPE)).astype(np.float32)
LABELS = np.array([4, 0, 29])
QUICK = EXPLANATION.with_settings(steps=6)


def model(images):
    weights = jax.random.normal(jax.random.key(0), (int(np.prod(SHAPE)), K))
    return jnp.tanh(images.reshape(len(images), -1) - 0.5) @ weights


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", ALL_CLASSES),
        ("top3", Targets(top=3)),
        ("top29", ALL_CLASSES),
        ("kind 7", Targets(classes=(7,))),
        ("kind 7, kind 2,5", Targets(classes=(7, 2, 5))),
        (["kind 7", 2], Targets(classes=(7, 2))),
        (4, Targets(classes=(4,))),
        (np.int64(4), Targets(classes=(4,))),
        (np.array([7, 2]), Targets(classes=(7, 2))),
        (jnp.array([7, 2]), Targets(classes=(7, 2))),
        (np.array(["kind 7", "2"]), Targets(classes=(7, 2))),
        (range(2, 4), Targets(classes=(2, 3))),
        (None, Targets(top=5)),
    ],
)
def test_targets_by_name(text, expected):
    assert targets_named(text, NAMES) == expected


def test_a_number_is_no_name_and_a_text_is_a_name_first():
    names = ("1", "2", "3", "4", "0")
    for numbers in ([0], 0, np.array([0])):
        assert targets_named(numbers, names) == Targets(classes=(0,))
    for text in ("0", ["0"], np.array(["0"])):
        assert targets_named(text, names) == Targets(classes=(4,))
    # As on the command line, where everything is text.
    assert targets_named("0,1", (*NAMES[:3], "0")) == Targets(classes=(3, 1))


def test_few_classes_are_all_targets_and_may_have_any_name():
    assert targets_named(None, NAMES[:20]) == ALL_CLASSES
    assert targets_named("top2", ("top1", "top2", "all")) == Targets(classes=(1,))
    assert targets_named("all", ("top1", "top2", "all")) == Targets(classes=(2,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kind 77",
            r"or names or numbers of classes \(kind 0, kind 1, kind 2, …\) as targets, got 'kind 77'",
        ),
        ("top31", "expected at most top30 of 30 classes as targets, got top31"),
        ("kind 7,7", "expected each class once as a target, got kind 7,7"),
        ("", "as targets, got ''"),
        ("30", "as targets, got '30'"),
        ([], r"expected each class once as a target, got \[\]"),
        (30, "as targets, got 30$"),
        (-1, "as targets, got -1$"),
        (True, "as targets, got True$"),
        (np.array([1.0]), r"as targets, got 1\.0$"),
        (np.array([[1, 2]]), r"as targets, got \[1, 2\]$"),
    ],
)
def test_what_are_no_targets_is_refused(text, message):
    with pytest.raises(UserError, match=message) as caught:
        targets_named(text, NAMES)
    assert "\n" not in str(caught.value)


def test_the_likeliest_and_the_real_one():
    logits = np.array([[0.0, 3, 1, 2], [0, np.nan, 1, 2], [5, 4, 3, 2]])
    found = Targets(top=2).likeliest(logits, np.array([0, 3, 1]))
    assert found.tolist() == [[1, 3, 0], [3, 2, 0], [0, 1, 2]]
    assert [t.count(4) for t in (Targets(top=2), Targets(classes=(3, 1)), ALL_CLASSES)] == [3, 2, 4]


def test_some_targets_are_explained_as_among_all_and_in_groups_of_any_size():
    whole = dict(explain(model, IMAGES, QUICK))
    targets = chosen_targets(model, IMAGES, LABELS, Targets(top=6))
    assert chosen_targets(model, IMAGES, LABELS, ALL_CLASSES) is None
    assert chosen_targets(model, IMAGES, None, Targets(classes=(3, 1))).tolist() == [[3, 1]] * N
    for at_once in (7, 3, 2):
        done = []
        some = dict(explain(model, IMAGES, QUICK, done.append, ExplanationChunk(2, at_once), targets))
        assert sum(done) == pytest.approx(N)
        for place, explanation in some.items():
            assert explanation.targets.tolist() == targets[place].tolist()
            expected = whole[place].perturbations[targets[place]]
            np.testing.assert_allclose(explanation.perturbations, expected, atol=2e-5)
            np.testing.assert_array_equal(explanation.first_ok, whole[place].first_ok[targets[place]])
            assert explanation.logits.shape == (K,)


@pytest.mark.parametrize(
    ("per_item", "row_bytes", "expected"),
    # Of 1,000 classes on a CPU: 50 groups of 20. Where 7 images fit, 3 targets of the two that a chunk has at least.
    [(10, 1, 10), (20, 1, 20), (21, 1, 11), (1000, 1, 20), (20, 2**30, 3), (1000, 2**30, 3), (6, 2**40, 1)],
)
def test_targets_at_once(per_item, row_bytes, expected, monkeypatch):
    monkeypatch.setattr(chunks, "lane_budget", lambda devices: 7 * 2**30 + 1)
    assert evenly(per_item, row_bytes) == expected
    if row_bytes <= 2**30:
        assert chunks.chunk_rows(5, row_bytes, expected) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_and_gallery_of_some_targets(channels, tmp_path):
    shape = (130, 9, channels)
    images = np.random.default_rng(1).uniform(size=(2, *shape)).astype(np.float32)
    weights = jax.random.normal(jax.random.key(0), (9 * 130 * channels, K))

    def flat(images):
        return (images.reshape(len(images), -1) - 0.5) @ weights

    out = tmp_path / "out"
    keywords = {"class_names": NAMES, "output": out, "attack": QUICK, "targets": "top5"}
    found = ax.explain_images(flat, images, LABELS[:2], **keywords)
    results = json.loads((out / "explanations.json").read_text())
    assert results["settings"]["targets"] == "top5"
    entry = results["images"][0]
    assert entry["targets"] == found[0].targets.tolist()
    assert 4 in entry["targets"]
    assert len(entry["rms"]) == 6
    folder = out / entry["folder"]
    assert len(list(folder.iterdir())) == 6 + 3
    with Image.open(folder / "_input.png") as picture:
        assert picture.mode == ("L" if channels == 1 else "RGB")
        assert picture.size == (9, 130)
    page = (out / "index.html").read_text()
    assert "each explained towards 6 of 30 classes." in page
    assert page.count('<img class="explanation"') == 2 * (6 + 2)
    # Larger pictures are shown larger, and smoothly.
    assert "--large: 224px" in page
    assert "pixelated" not in page
    assert "kind 4" in page
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    ax.explain_images(flat, images, LABELS[:2], **keywords)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(UserError, match="other settings"):
        ax.explain_images(flat, images, LABELS[:2], **keywords | {"targets": "kind 1,kind 2"})
    # Neither the real nor the second class is among them.
    others = [name for name in NAMES if NAMES.index(name) not in (4, entry["second"])][:2]
    ax.explain_images(flat, images[:1], LABELS[:1], **keywords | {"targets": ",".join(others), "overwrite": True})
    assert len(list(folder.iterdir())) == 2 + 1
