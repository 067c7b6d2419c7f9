"""What `explain` keeps in a folder that a person looks at, changes, and comes back to."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from networks import TINY, random_classifier

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.attribution import Gradient
from advx_jax.attacks import EXPLANATION
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.data.lazy_pixels import LazyPixels
from advx_jax.data.own_images import OwnImage
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.runs.explain import given_images, own_images, write_explanations
from advx_jax.runs.shares import Share

NAMES = ("cat", "dog", "fish")
ATTACK = EXPLANATION.replace(steps=2)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    classifier = random_classifier(architecture=dataclasses.replace(TINY, n_classes=len(NAMES)))
    return ResolvedNetwork(
        dataclasses.replace(classifier, class_names=NAMES), Provenance(name="three"), tmp_path_factory
    )


@pytest.fixture(scope="module")
def data():
    return ImageSet(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8), np.arange(3), NAMES, "a test")


def written(network, images, output, overwrite=False, **options):
    return write_explanations(network, images, ATTACK, output, overwrite, False, **options)


def listed(folder):
    """What stands in the results, and how many images in the gallery."""
    entries = json.loads((folder / "explanations.json").read_text())["images"]
    assert (folder / "index.html").read_text().count("<article") == len(entries)
    return {entry["folder"]: entry for entry in entries}


def test_pictures_that_were_removed_are_made_again_when_they_are_wanted(network, data, tmp_path):
    written(network, given_images(data, [0, 1]), tmp_path)
    shutil.rmtree(tmp_path / "0-cat")
    shutil.rmtree(tmp_path / "differences" / "1-dog")
    written(network, given_images(data, [2]), tmp_path)
    assert set(listed(tmp_path)) == {"2-fish"}
    written(network, given_images(data, [0, 1]), tmp_path)
    assert set(listed(tmp_path)) == {"0-cat", "1-dog", "2-fish"}


@pytest.mark.parametrize("is_right", [True, False])
def test_the_real_class_is_heeded_when_it_becomes_known(network, data, tmp_path, is_right):
    top = int(predict(network.classifier, unit_images(data.images[:1])).classes[0])
    label = top if is_right else (top + 1) % 3
    unknown, known = (OwnImage(tmp_path / "x.png", data.images[0], "", given) for given in (None, label))
    output = tmp_path / "output"
    for own, label_is_given in ((unknown, False), (known, True), (unknown, True)):
        written(network, own_images(network.classifier, [own]), output)
        entries = listed(output)
        # What is asked for is shown in any case.
        assert f"x-{NAMES[top if own is unknown else label]}" in entries
        entry = entries[f"x-{NAMES[label if label_is_given else top]}"]
        assert entry["label_is_given"] == label_is_given
        assert len(entries) == (1 if is_right or own is known or not label_is_given else 2)


def test_a_page_of_somebodys_own_stays(network, data, tmp_path):
    (tmp_path / "index.html").write_text("<p>mine</p>")
    with pytest.raises(UserError, match=r"expected a gallery of explain in .*index\.html, or no file, got another"):
        written(network, given_images(data, [0]), tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_what_is_replaced_goes_whatever_it_was_made_with(network, data, tmp_path):
    written(network, given_images(data, [0, 1]), tmp_path, methods={"gradient": Gradient()})
    (tmp_path / "1-dog" / "notes.txt").write_text("mine")
    (tmp_path / "my-photos").mkdir()
    (tmp_path / "my-photos" / "1.jpg").write_text("mine")
    # A file of records may be anybody's.
    with (tmp_path / "explanations.jsonl").open("a") as stream:
        for key in ("my-photos", f"../{tmp_path.name}/my-photos"):
            stream.write(json.dumps({"serial": 9, "records": {key: {}}}) + "\n")
    written(network, given_images(data, [2]), tmp_path, overwrite=True)
    assert set(listed(tmp_path)) == {"2-fish"}
    # What holds something else is nobody's to remove.
    folders = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders == {"2-fish", "1-dog", "my-photos", "differences", "differences/2-fish"}


def test_shards_read_no_images_but_their_own(network, data, tmp_path):
    read = []

    def reading(places):
        read.extend(places.tolist())
        return data.images[places]

    lazy = dataclasses.replace(data, images=LazyPixels(data.images.shape, reading, lambda: b""))
    written(network, given_images(lazy, range(3)), tmp_path, share=Share(1, 3))
    assert read == [1]
