"""Data sets of a person's own, in every form that --data takes: real files, made here."""

import errno
import os
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from advx_jax.data.decoding import Wanted
from advx_jax.data.image_set import ImageSet, unit_images, with_classes_of
from advx_jax.data.lazy_pixels import LazyPixels
from advx_jax.data.sources import load_images
from advx_jax.errors import UserError

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def save(path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pets(tmp_path):
    """Two classes of 8x6 images: three cats, of which one in a folder of its own, and a dog."""
    folder = tmp_path / "pets"
    for name in ("dog/1.png", "cat/10.png", "cat/2.png", "cat/more/3.bmp"):
        save(folder / name, noise(8, 6, 3))
    return folder


def pixels_of(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_class_folders_are_read_in_natural_order(pets):
    (pets / "cat" / "notes.txt").write_text("mine")
    (pets / ".DS_Store").write_text("")
    # What programs put beside them, in the folder of a class as well.
    save(pets / "cat" / ".ipynb_checkpoints" / "2-checkpoint.png", noise(8, 6, 3))
    (pets / "cat" / "more" / "._3.bmp").write_text("")
    data = load_images(str(pets))
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 0, 1]
    assert data.images.shape == (4, 8, 6, 3)
    assert "pets, as 8×6×3, 1 files left out" in data.source
    np.testing.assert_array_equal(data.images[0], pixels_of(pets / "cat/2.png"))
    np.testing.assert_array_equal(data.images[[2, 3]][1], pixels_of(pets / "dog/1.png"))
    np.testing.assert_array_equal(data.images[1:2][0], pixels_of(pets / "cat/10.png"))
    assert unit_images(data.images).shape == (4, 8, 6, 3)
    assert data.images[:0].shape == (0, 8, 6, 3)
    assert not data.has_published_order


@pytest.mark.parametrize("shape", [32, (0, 32), (32,), (8, 8, 3, 1), (8.0, 8), "88", (True, 8)])
@pytest.mark.usefixtures("unchecked")
def test_image_shapes_that_are_none_are_refused(shape):
    with pytest.raises(UserError, match=r"expected \(height, width\) or .* as image shape, got"):
        Wanted.of(shape)


def test_images_are_made_of_channels_that_pictures_have():
    with pytest.raises(UserError, match=r"expected to make images of 1 \(grey\), .* channels, got 8"):
        load_images("sample", image_shape=(32, 32, 8)).images[:1]


def test_files_are_read_only_when_they_are_asked_for(pets):
    (pets / "dog" / "1.png").write_text("no image")
    data = load_images(str(pets), image_shape=(8, 6, 3))
    assert len(data.fingerprint) == 64
    data.images[[0, 1]]
    with pytest.raises(UserError, match=r"dog/1\.png: expected an image"):
        data.images[3]
    with pytest.raises(UserError, match=r"dog/1\.png: expected an image"):
        load_images(str(pets))


def test_images_of_several_sizes_are_brought_to_the_size_asked_for(pets):
    save(pets / "dog" / "2.webp", noise(20, 40, 3))
    with pytest.raises(UserError, match=r"expected --image_size=.* 2 sizes .* is 8×6, .*2\.webp is 20×40"):
        load_images(str(pets))
    data = load_images(str(pets), image_shape=(16, 24))
    assert data.images.shape == (5, 16, 24, 3)
    # The middle of what is too wide.
    rgb = pixels_of(pets / "dog/2.webp")[:, 5:35]
    expected = np.asarray(Image.fromarray(rgb).resize((24, 16), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(data.images[4], expected)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_are_those_that_are_asked_for(tmp_path, channels, mode):
    save(tmp_path / "a" / "grey.png", noise(4, 4))
    save(tmp_path / "b" / "colour.png", noise(4, 4, 3))
    save(tmp_path / "b" / "half.png", np.full((4, 4, 4), (255, 0, 0, 0), np.uint8))
    data = load_images(str(tmp_path), image_shape=(4, 4, channels))
    assert data.images.shape == (3, 4, 4, channels)
    with Image.open(tmp_path / "a/grey.png") as image:
        np.testing.assert_array_equal(data.images[0].squeeze(), np.asarray(image.convert(mode)))
    # Transparent parts lie over white where there is no alpha.
    assert np.unique(data.images[2][..., :1]).tolist() == [255]
    assert data.images[2][..., -1].max() == (0 if channels == 4 else 255)


def test_grey_images_stay_grey(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name / "1.png", noise(5, 4))
    assert load_images(str(tmp_path)).images.shape == (2, 5, 4, 1)
    save(tmp_path / "b" / "2.png", noise(5, 4, 3))
    assert load_images(str(tmp_path)).images.shape == (3, 5, 4, 3)


def test_folders_of_splits(tmp_path):
    save(tmp_path / "train" / "cat" / "1.png", noise(4, 4, 3))
    save(tmp_path / "train" / "dog" / "1.png", noise(4, 4, 3))
    save(tmp_path / "val" / "dog" / "2.png", noise(4, 4, 3))
    train, test = (load_images(str(tmp_path), split) for split in ("train", "test"))
    # A class without test images is one all the same.
    assert train.class_names == test.class_names == ("cat", "dog")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [1])
    assert "val" in test.source
    save(tmp_path / "Test" / "cat" / "3.png", noise(4, 4, 3))
    assert load_images(str(tmp_path), "test").labels.tolist() == [0]
    for path in (tmp_path / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"expected class folders .* got no images in any"):
        load_images(str(tmp_path), "train")


def test_folders_of_splits_among_others(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/dog/2.png", "unlabeled/1.png"):
        save(tmp_path / name, noise(4, 4, 3))
    # Neither a split that is empty nor what a machine puts beside classes is in the way.
    for name in ("val", "test/@eaDir"):
        (tmp_path / name).mkdir()
    train, test = (load_images(str(tmp_path), split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert (len(train), len(test)) == (2, 1)
    assert test.source.endswith("test, as 4×4×3, without 'unlabeled' beside it")
    assert not test.is_whole


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    for name in ("car/1.png", "train/1.png", "train/steam/2.png"):
        save(tmp_path / name, noise(4, 4, 3))
    data = load_images(str(tmp_path))
    assert data.class_names == ("car", "train")
    assert data.is_whole


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_to_test_with_are_of_classes_that_are_trained(tmp_path, split):
    # As Tiny ImageNet has them: those of all classes in one folder.
    for name in ("train/n01/images/1.png", "train/n02/images/1.png", "val/images/1.png"):
        save(tmp_path / name, noise(4, 4, 3))
    with pytest.raises(UserError, match=r"expected the classes of .*train in .*val, got others: 'images'"):
        load_images(str(tmp_path), split)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "got none"),
        (["1.png"], "got images without classes; explain takes images without classes, too: --images="),
        (["train/cat/1.png"], "expected a folder test or testing or val or valid or validation in .*, got train"),
    ],
)
def test_what_is_no_folder_of_class_folders(tmp_path, names, reason):
    for name in names:
        save(tmp_path / name, noise(4, 4, 3))
    with pytest.raises(UserError, match=reason):
        load_images(str(tmp_path))


def test_fingerprints_of_folders_are_those_of_their_content(pets, tmp_path):
    before = load_images(str(pets)).fingerprint
    moved = tmp_path / "elsewhere"
    pets.rename(moved)
    assert load_images(str(moved)).fingerprint == before
    assert load_images(str(moved), image_shape=(4, 4)).fingerprint != before
    path = moved / "dog" / "1.png"
    size = path.stat().st_size
    # Noise hardly compresses: another image has the same size, give or take.
    pixels = pixels_of(path).copy()
    pixels[0, 0] ^= 1
    save(path, pixels)
    assert abs(path.stat().st_size - size) < 20
    assert load_images(str(moved)).fingerprint != before


@pytest.mark.parametrize("suffix", ["ppm", "bmp", "tif"])
def test_fingerprints_of_folders_tell_images_with_equal_ends_from_each_other(tmp_path, suffix):
    pixels = noise(96, 96, 3)
    pixels[:20] = pixels[-20:] = 0
    path = tmp_path / "cat" / f"1.{suffix}"
    save(path, pixels)
    before, size = load_images(str(tmp_path)).fingerprint, path.stat().st_size
    pixels[48, 48] ^= 1
    save(path, pixels)
    assert path.stat().st_size == size
    assert load_images(str(tmp_path)).fingerprint != before


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(pets, monkeypatch):
    refused, scandir = str(pets / "cat" / "more"), os.scandir

    def answered(path):
        # As the system answers those who may not read it; the superuser may read all.
        if str(path) == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), refused)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", answered)
    with pytest.raises(UserError, match="cat/more: cannot be read: Permission denied"):
        load_images(str(pets))


@pytest.mark.parametrize("orientation", [6, 9])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_sizes_are_those_of_upright_images(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "cat").mkdir()
    Image.fromarray(noise(40, 60, 3)).save(tmp_path / "cat" / f"1.{suffix}", exif=exif)
    data = load_images(str(tmp_path))
    assert data.images.shape == ((1, 60, 40, 3) if orientation == 6 else (1, 40, 60, 3))
    assert data.images[:].shape == data.images.shape


def test_a_thousand_classes(tmp_path):
    for number in range(1000):
        (tmp_path / f"n{number}").mkdir()
    save(tmp_path / "n999" / "1.png", noise(2, 2, 3))
    data = load_images(str(tmp_path))
    assert data.class_names[::333] == ("n0", "n333", "n666", "n999")
    assert data.labels.tolist() == [999]


# --- arrays


def test_npz_of_grey_images_without_names(tmp_path):
    images = noise(5, 7, 6)
    np.savez(tmp_path / "digits.npz", images=images, labels=np.array([0, 3, 1, 1, 2], np.int32))
    data = load_images(str(tmp_path / "digits.npz"))
    np.testing.assert_array_equal(data.images, images[..., None])
    assert data.labels.tolist() == [0, 3, 1, 1, 2]
    assert data.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert not data.class_names_given


def test_npz_with_names_and_splits(tmp_path):
    x, y = noise(4, 3, 5, 3), np.array([[0], [1], [1], [0]], np.uint8)
    test = unit_images(noise(2, 3, 5, 3))
    np.savez_compressed(
        tmp_path / "own.npz", x_train=x, y_train=y, x_test=test, y_test=[1, 1], class_names=np.array(["no", "yes"])
    )
    data = load_images(str(tmp_path / "own.npz"))
    assert data.class_names == ("no", "yes")
    np.testing.assert_array_equal(unit_images(data.images), test)
    assert "rounded" not in data.source
    np.testing.assert_array_equal(load_images(str(tmp_path / "own.npz"), "train").images, x)
    np.savez(tmp_path / "own.npz", images=x, labels=y[:, 0], x_test=test, y_test=[1, 1])
    assert [len(load_images(str(tmp_path / "own.npz"), split)) for split in ("train", "test")] == [4, 2]
    np.savez(tmp_path / "own.npz", images=test * 0.999, labels=[1, 1])
    assert "rounded to 8 bits" in load_images(str(tmp_path / "own.npz")).source


SOUND = {"images": noise(2, 4, 4, 3), "labels": np.array([0, 1])}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": noise(2, 4)}, r"expected images of shape .* got shape '\(2, 4\)'"),
        ({"images": noise(2, 3, 5, 5)}, r"got shape \(2, 3, 5, 5\); images.transpose"),
        ({"images": noise(2, 4, 4, 2)}, r"got shape \(2, 4, 4, 2\)"),
        ({"images": noise(0, 4, 4, 3), "labels": np.zeros(0, np.int64)}, "expected images of shape"),
        ({"images": SOUND["images"].astype(np.float32)}, "from 0 to 1 .* divide by 255"),
        ({"images": np.full((2, 4, 4, 3), np.nan)}, "expected float images from 0 to 1 .* got nan"),
        ({"images": SOUND["images"].astype(np.int64)}, "expected images of type uint8, or floats .* got int64"),
        ({"labels": np.array([0, 1, 0])}, "expected a label for each of 2 images .* got 3"),
        ({"labels": np.array([0.0, 1.0])}, "expected labels as whole numbers, .* got float64"),
        ({"labels": np.eye(2, dtype=np.int64)}, r"expected labels as whole numbers, .* of shape '\(2, 2\)'"),
        ({"labels": np.array([-1, 0])}, "expected labels from 0 .* got -1"),
        ({"class_names": np.array(["one"])}, "expected labels from 0 to 0 for 1 class names .* got 1"),
        ({"class_names": np.array(["one", "one"])}, "expected different class names .* 'one' twice"),
        ({"class_names": np.array([1, 2])}, "expected class names as texts"),
        ({"class_names": np.array([{}, "x"], object)}, "Python objects, which are never read"),
        ({"labels": None}, r"expected labels in the file .*own\.npz, got 'images'"),
        ({"images": None}, r"expected images and labels, or x_test and y_test, in the file .* got 'labels'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(tmp_path, changes, reason):
    arrays = {name: value for name, value in {**SOUND, **changes}.items() if value is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(UserError, match=reason) as caught:
        load_images(str(tmp_path / "own.npz"))
    assert "\n" not in str(caught.value)


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_an_npz_is_executed(tmp_path):
    trap = Trap(tmp_path / "sprung")
    np.savez(tmp_path / "inside.npz", **SOUND, class_names=np.array([trap, trap], object))
    (tmp_path / "whole.npz").write_bytes(pickle.dumps(trap))
    for name in ("inside", "whole"):
        with pytest.raises(UserError, match="cannot read the arrays"):
            load_images(str(tmp_path / f"{name}.npz"))
    assert not (tmp_path / "sprung").exists()


def test_damaged_npz_files_are_refused_in_one_line(tmp_path):
    np.savez_compressed(tmp_path / "sound.npz", **SOUND)
    content = (tmp_path / "sound.npz").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content[: rng.integers(len(content))] if rng.random() < 0.3 else content)
        for place in rng.integers(len(damaged), size=3) if damaged else []:
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged.npz").write_bytes(damaged)
        try:
            load_images(str(tmp_path / "damaged.npz"))
        except UserError:
            refused += 1
    assert refused > 100


# --- CIFAR-100


def cifar100(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return noise(n, 32, 32, 3), RNG.integers(0, 20, n), RNG.integers(0, 100, n)


def write_cifar100_python(folder, split: str, images, coarse, fine) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    batch = {
        b"filenames": [b"x.png"] * len(images),
        b"batch_label": b"training batch 1 of 1",
        b"fine_labels": fine.tolist(),
        b"coarse_labels": coarse.tolist(),
        b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
    }
    (folder / split).write_bytes(pickle.dumps(batch, 2))
    names = {b"fine_label_names": [f"fine {i}".encode() for i in range(100)], b"coarse_label_names": [b"c"] * 20}
    (folder / "meta").write_bytes(pickle.dumps(names, 2))


def write_cifar100_binary(folder, split: str, images, coarse, fine) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    records = np.concatenate([coarse[:, None], fine[:, None], planes], axis=1).astype(np.uint8)
    (folder / f"{split}.bin").write_bytes(records.tobytes())
    (folder / "fine_label_names.txt").write_text("".join(f"fine_{i}\n" for i in range(100)) + "\n")


@pytest.mark.parametrize(
    ("name", "write"), [("cifar-100-python", write_cifar100_python), ("cifar-100-binary", write_cifar100_binary)]
)
def test_cifar100_has_its_fine_classes(tmp_path, name, write):
    images, coarse, fine = cifar100(6)
    write(tmp_path / name, "test", images, coarse, fine)
    for place in (tmp_path, tmp_path / name):
        data = load_images(str(place))
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.labels, fine)
        assert data.class_names[42].replace("_", " ") == "fine 42"
        assert "CIFAR-100" in data.source
    assert not data.has_published_order
    with pytest.raises(UserError, match="expected the train images of CIFAR-100 in"):
        load_images(str(tmp_path), "train")
    write(tmp_path / name, "test", images, coarse, fine * 0 + 100)
    with pytest.raises(UserError, match=r"expected labels from 0 to 99 in .*, got 100"):
        load_images(str(tmp_path))


# --- own code


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the working folder, which is forgotten afterwards."""
    (tmp_path / "own_sets.py").write_text(
        "import numpy as np\n"
        "x, y = np.zeros((3, 4, 5), np.uint8), [0, 1, 1]\n"
        "pair = x, y\n"
        "def named(): return x, y, ('no', 'yes')\n"
        "def whole():\n"
        "    from advx_jax.data.image_set import ImageSet\n"
        "    return ImageSet(x[..., None], np.array(y), ('no', 'yes'), 'mine')\n"
        "def floats():\n"
        "    import advx_jax as ax\n"
        "    return ax.load_images('sample')\n"
        "def failing(): raise KeyError('nothing\\nthere')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("own_sets", None)


def test_own_code_gives_images(own_module):
    data = load_images("own_sets:pair")
    assert data.images.shape == (3, 4, 5, 1)
    assert data.source == "own_sets:pair"
    assert not data.class_names_given
    assert load_images("own_sets:named").class_names == load_images("own_sets:whole").class_names == ("no", "yes")
    floats = load_images("own_sets:floats")
    np.testing.assert_array_equal(floats.images, load_images("sample").images)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("number", r"expected own_sets:number to be an ImageSet, .* got int"),
        ("x", r"expected own_sets:x to be an ImageSet, .* got ndarray"),
        ("failing", r"expected own_sets:failing to give images, got KeyError"),
        ("nothing", r"expected own_sets to have images 'nothing', got none of that name"),
    ],
)
def test_own_code_that_gives_no_images(own_module, name, reason):
    with pytest.raises(UserError, match=reason):
        load_images(f"own_sets:{name}")


# --- what networks take


def test_arrays_are_brought_to_what_a_network_takes(tmp_path):
    np.savez(tmp_path / "own.npz", images=noise(3, 8, 8), labels=[0, 1, 0])
    data = load_images(str(tmp_path / "own.npz"), image_shape=(16, 12, 3))
    assert isinstance(data.images, LazyPixels)
    assert data.images.shape == (3, 16, 12, 3)
    assert data.images[1].shape == (16, 12, 3)
    np.testing.assert_array_equal(data.images[0][..., 0], data.images[0][..., 2])
    assert "8×8×1 brought to 16×12×3" in data.source
    same = load_images(str(tmp_path / "own.npz"), image_shape=(8, 8, 1))
    assert isinstance(same.images, np.ndarray)
    assert same.fingerprint != data.fingerprint


def data_of(class_names, labels, given: bool = True) -> ImageSet:
    return ImageSet(noise(len(labels), 2, 2, 3), np.array(labels), tuple(class_names), "mine", given)


def test_classes_get_the_networks_numbers_by_their_names():
    fitted = with_classes_of(data_of(["dog", "Cat"], [0, 1, 1]), 3, ("cat", "cow", "dog"))
    assert fitted.labels.tolist() == [2, 0, 0]
    assert fitted.class_names == ("cat", "cow", "dog")
    assert with_classes_of(data_of(["2", "0"], [0, 1]), 3, ("cat", "cow", "dog")).labels.tolist() == [2, 0]
    with pytest.raises(UserError, match=r"expected the network's 3 classes .* in mine, got others: 'horse'"):
        with_classes_of(data_of(["dog", "horse"], [0, 1]), 3, ("cat", "cow", "dog"))


def test_numbered_classes_get_the_networks_names():
    numbered = data_of(["class_0", "class_1"], [0, 1], given=False)
    assert with_classes_of(numbered, 3, ("cat", "cow", "dog")).class_names == ("cat", "cow", "dog")
    assert with_classes_of(numbered, 3, None).class_names == ("class_0", "class_1", "class_2")
    with pytest.raises(UserError, match="expected labels from 0 to 0 for a network of 1 classes, got 1 in mine"):
        with_classes_of(numbered, 1, None)
