"""Accuracy and loss, and the published logits and accuracies."""

import jax
import numpy as np
import pytest
from conftest import PUBLISHED_NAMES
from networks import random_classifier

from advx_jax.analysis.accuracy import predict

# The bound on logits; seen: 1e-5 on networks whose logits reach 20.
LOGIT_TOLERANCE = 1e-4
# Of the reference's 256 images: the slow tests look at all that there are.
FIRST = 64
LOSS_TOLERANCE = 1e-5
ACCURACIES = {
    "resnet44-standard": 0.9384,
    "resnet44-adv-train": 0.8643,
    "resnet44-all": 0.6790,
    "resnet44-robust": 0.6758,
}


def test_predictions_do_not_depend_on_the_chunk():
    classifier = random_classifier()
    images = np.asarray(jax.random.uniform(jax.random.key(0), (37, 8, 8, 3)))
    labels = np.arange(37, dtype=np.int32) % 10
    done = []
    found = predict(classifier, images, done.append)
    logits = np.asarray(jax.jit(classifier)(images))
    np.testing.assert_array_equal(found.classes, logits.argmax(-1))
    losses = -np.asarray(jax.nn.log_softmax(logits))[np.arange(37), labels]
    np.testing.assert_allclose(found.losses(labels), losses, rtol=LOSS_TOLERANCE)
    assert sum(done) == 37
    assert found.accuracy(logits.argmax(-1)) == 1
    assert found.loss(labels) == pytest.approx(losses.mean(), rel=LOSS_TOLERANCE)


@pytest.mark.usefixtures("compiled_as_people_do")
@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "half_huber"])
def test_published_logits(activation, golden, published_pt):
    """Networks of one architecture together, which is compiled for them once."""
    from advx_jax.convert import read_pt

    read = {name: read_pt(published_pt(name))[0] for name in PUBLISHED_NAMES}
    alike = {name: one for name, one in read.items() if one.architecture.activation == activation}
    assert len(alike) == 2
    images = golden("images_test_first256.npz")["images_u8"][:FIRST].astype(np.float32) / np.float32(255)
    logits_of = jax.jit(lambda c, x: c(x))
    for name, classifier in alike.items():
        expected = golden("logits_test_first256.npz")[name.removeprefix("resnet44-")][:FIRST]
        found = np.asarray(logits_of(classifier, images))
        assert np.abs(found - expected).max() <= LOGIT_TOLERANCE, name
        np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_published_accuracy(name, published_pt):
    """On all 10,000 test images, which must have been fetched; to the last digit."""
    from advx_jax.convert import read_pt
    from advx_jax.data.image_set import unit_images
    from advx_jax.data.sources import load_images

    data = load_images(None, "test")
    if len(data) != 10_000:
        pytest.skip("needs the full test set: python -m advx_jax.data.cifar10 fetches it")
    classifier, _ = read_pt(published_pt(name))
    found = predict(classifier, unit_images(data.images))
    assert found.accuracy(data.labels) == ACCURACIES[name]
