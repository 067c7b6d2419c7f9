import numpy as np
import pytest
from cifar10_files import (
    HOME_ARCHIVE,
    manual_folder,
    random_set,
    take_for_the_home_archive,
    write_binary_folder,
    write_home_archive,
    write_mirror_tarball,
    write_pickled_folder,
)

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.data.mirror import read_tarball
from advx_jax.data.published import PUBLISHED, PublishedSplit
from advx_jax.data.sample import load_sample
from advx_jax.data.sources import load_images
from advx_jax.errors import UserError


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """A user's home without any CIFAR-10; gives the cache folder."""
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.delenv("CIFAR10_PATH", raising=False)
    return tmp_path / "cache"


def test_all_sources_give_equal_arrays_in_the_original_order(tmp_path, empty_home, monkeypatch):
    splits = random_set()
    tfds_builder = pytest.importorskip("advx_jax.data.tfds_builder")
    archive = write_home_archive(manual_folder(tmp_path / "tfds") / HOME_ARCHIVE, splits)
    take_for_the_home_archive(monkeypatch, tfds_builder, archive)

    binary = write_binary_folder(tmp_path / "cifar-10-batches-bin", splits)
    pickled = write_pickled_folder(tmp_path / "cifar-10-batches-py", splits)
    mirror = read_tarball(write_mirror_tarball(tmp_path / "mirror.tgz", splits))
    for split, (images, labels) in splits.items():
        for source in (str(binary), str(pickled), "tfds"):
            loaded = load_images(source, split)
            np.testing.assert_array_equal(loaded.images, images, err_msg=source)
            np.testing.assert_array_equal(loaded.labels, labels, err_msg=source)
            assert loaded.class_names == CIFAR10_CLASSES
        np.testing.assert_array_equal(mirror[split][0], images)
        np.testing.assert_array_equal(mirror[split][1], labels)


@pytest.mark.parametrize("write", [write_binary_folder, write_pickled_folder])
def test_a_folder_may_be_the_batches_or_what_holds_them(tmp_path, write):
    name = "cifar-10-batches-bin" if write is write_binary_folder else "cifar-10-batches-py"
    folder = write(tmp_path / name, random_set())
    inside, outside = load_images(str(folder), "test"), load_images(str(tmp_path), "test")
    assert inside.fingerprint == outside.fingerprint
    assert inside.source == outside.source
    assert str(folder) in inside.source


def test_a_folder_of_another_name_will_do(tmp_path):
    splits = random_set()
    folder = write_pickled_folder(tmp_path / "mine", splits)
    np.testing.assert_array_equal(load_images(str(folder), "train").labels, splits["train"][1])


def test_a_set_of_ones_own_is_called_so_and_the_published_one_is_not(tmp_path, monkeypatch):
    folder = write_binary_folder(tmp_path / "set", random_set())
    own = load_images(str(folder), "test")
    assert own.source == f"the folder {folder}, 4 images that are not the published test set"
    monkeypatch.setitem(PUBLISHED, "test", PublishedSplit(4, own.fingerprint))
    assert load_images(str(folder), "test").source == f"the folder {folder}"


def test_sample_by_name_has_test_images_only():
    assert load_images("sample", "test").fingerprint == load_sample().fingerprint
    with pytest.raises(UserError, match="test images only, no train images"):
        load_images("sample", "train")


@pytest.mark.parametrize("nothing", [None, ""])
def test_automatic_choice_ends_at_the_sample(empty_home, nothing):
    found = load_images(nothing, "test")
    assert "sample" in found.source
    assert len(found) == 256
    with pytest.raises(UserError, match=r"no train images; `python -m advx_jax\.data\.cifar10`"):
        load_images(nothing, "train")


def test_automatic_choice_prefers_the_fetched_set(empty_home, monkeypatch):
    write_binary_folder(empty_home / "cifar-10-batches-bin", random_set())
    own = load_images(str(empty_home), "test")
    monkeypatch.setitem(PUBLISHED, "test", PublishedSplit(4, own.fingerprint))
    found = load_images(None, "test")
    assert found.fingerprint == own.fingerprint
    assert found.source == f"the fetched set in {empty_home / 'cifar-10-batches-bin'}"


def test_results_do_not_tell_whose_home_it_is(empty_home, monkeypatch):
    folder = write_binary_folder(empty_home / "photos", random_set())
    monkeypatch.setenv("HOME", str(empty_home))
    assert load_images(str(folder), "test").source.startswith("the folder ~/photos,")


def test_automatic_choice_refuses_a_damaged_fetched_set(empty_home):
    folder = write_binary_folder(empty_home / "cifar-10-batches-bin", random_set())
    with pytest.raises(UserError, match=r"expected the published CIFAR-10 in .*, got a damaged one; .* again"):
        load_images(None, "test")
    (folder / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(UserError, match=r"test_batch\.bin, got 5 bytes; .* again"):
        load_images(None, "test")


def test_the_path_variable_comes_first(tmp_path, empty_home, monkeypatch):
    write_binary_folder(empty_home / "cifar-10-batches-bin", random_set(0))
    mine = write_pickled_folder(tmp_path / "mine", random_set(1))
    monkeypatch.setenv("CIFAR10_PATH", str(mine))
    found = load_images(None, "test")
    np.testing.assert_array_equal(found.images, random_set(1)["test"][0])
    assert "$CIFAR10_PATH" in found.source


def test_a_wrong_path_variable_is_an_error_that_names_it(tmp_path, empty_home, monkeypatch):
    monkeypatch.setenv("CIFAR10_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"\$CIFAR10_PATH: expected a folder .* got nothing there"):
        load_images(None, "test")


def test_bad_sources_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"expected sample, .* class folders.* got 'sampel', which is not"):
        load_images("sampel", "test")
    with pytest.raises(UserError, match=r"expected class folders .* got none"):
        load_images(str(tmp_path), "test")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="got the file"):
        load_images(str(file), "test")


def test_a_folder_may_hold_one_split_only(tmp_path):
    folder = write_binary_folder(tmp_path / "set", random_set())
    for path in folder.glob("data_batch*"):
        path.unlink()
    assert len(load_images(str(folder), "test")) == 4
    with pytest.raises(UserError, match="train batches"):
        load_images(str(folder), "train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_full_set_is_the_published_one(split):
    try:
        full = load_images(None, split)
    except UserError as error:
        pytest.skip(f"needs the full CIFAR-10: {error}")
    if "sample" in full.source:
        pytest.skip("needs the full CIFAR-10: set $CIFAR10_PATH or run `python -m advx_jax.data.cifar10`")
    n_images = {"train": 50_000, "test": 10_000}[split]
    assert full.images.shape == (n_images, 32, 32, 3)
    assert np.bincount(full.labels).tolist() == [n_images // 10] * 10
    assert full.fingerprint == PUBLISHED[split].fingerprint
    assert "not the published" not in full.source
