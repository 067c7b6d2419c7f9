import numpy as np
import pytest
from PIL import Image

from advx_jax.data.sources import load_images
from advx_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 9, 7, 1), np.uint8)
LABELS = [0, 2, 1, 1, 0, 2]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data set that was prepared without TensorFlow."""
    import tensorflow_datasets as tfds

    class TinySigns(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(9, 7, 1)), "label": tfds.features.ClassLabel(names="abc")}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(slice(2, None)), "validation": self._generate_examples(slice(2))}

        def _generate_examples(self, part):
            for place, (image, label) in enumerate(zip(IMAGES[part], LABELS[part], strict=True)):
                yield place, {"image": Image.fromarray(image[..., 0]), "label": label}

    folder = tmp_path_factory.mktemp("tfds")
    TinySigns(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


@pytest.fixture(autouse=True)
def there(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def test_what_is_prepared_is_read():
    for split, expected in (("train", IMAGES[2:]), ("test", IMAGES[:2])):
        data = load_images("tfds:tiny_signs", split)
        assert data.images.shape == expected.shape
        assert data.class_names == ("a", "b", "c")
        # In the order of TFDS's files.
        places = [[image.tobytes() for image in IMAGES].index(image.tobytes()) for image in data.images[:]]
        assert len(set(places)) == len(expected)
        assert data.labels.tolist() == [LABELS[place] for place in places]
        assert len(data.fingerprint) == 64
    assert "its validation images as 9×7×1" in data.source
    assert load_images("tfds:tiny_signs", image_shape=(4, 4, 3)).images[0].shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_set", r"expected a data set of TFDS in tfds:no_such_set, .*not found"),
        ("mnist", r"expected tfds:mnist to be prepared in .*mnist.*, got nothing; .*download_and_prepare"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(name, reason):
    with pytest.raises(UserError, match=reason) as caught:
        load_images(f"tfds:{name}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
