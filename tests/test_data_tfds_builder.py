import contextlib
import json

import numpy as np
import pytest
from cifar10_files import (
    HOME_ARCHIVE,
    manual_folder,
    random_set,
    served,
    take_for_the_home_archive,
    write_home_archive,
)

from advx_jax.errors import UserError

tfds_builder = pytest.importorskip("advx_jax.data.tfds_builder")


@pytest.fixture
def archive_is(monkeypatch, tmp_path):
    """Let the builder take a given file for the published archive."""
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path / "cache"))

    def use(*file_and_address):
        take_for_the_home_archive(monkeypatch, tfds_builder, *file_and_address)

    return use


@pytest.fixture
def home_page(tmp_path):
    """A web server of a folder of its own; gives the folder and the address."""
    folder = tmp_path / "home-page"
    folder.mkdir()
    with served(folder) as address:
        yield folder, address


def test_downloads_prepares_and_reads_in_the_original_order(tmp_path, home_page, archive_is):
    folder, address = home_page
    splits = random_set()
    archive_is(write_home_archive(folder / HOME_ARCHIVE, splits), address)
    data_dir = tmp_path / "tfds"
    for split, (images, labels) in splits.items():
        read_images, read_labels, prepared = tfds_builder.load_tfds(split, data_dir)
        np.testing.assert_array_equal(read_images, images)
        np.testing.assert_array_equal(read_labels, labels)
        assert read_labels.dtype == np.int64
    assert prepared == data_dir / "cifar10" / "3.0.2"
    # Neither the archive nor a half-written folder stays.
    assert [path.name for path in data_dir.iterdir()] == ["cifar10"]


def test_the_stock_tfds_reads_what_was_prepared(tmp_path, archive_is):
    import tensorflow_datasets as tfds

    splits = random_set()
    data_dir = tmp_path / "tfds"
    archive_is(write_home_archive(manual_folder(data_dir) / HOME_ARCHIVE, splits))
    tfds_builder.load_tfds("test", data_dir)
    for split, (images, labels) in splits.items():
        records = sorted(tfds.data_source("cifar10", data_dir=data_dir, split=split), key=lambda r: r["id"])
        assert records[0]["id"] == f"{split}_00000".encode()
        np.testing.assert_array_equal([r["label"] for r in records], labels)
        np.testing.assert_array_equal([r["image"] for r in records], images)


def test_decoded_arrays_are_kept_and_belong_to_one_prepared_set(tmp_path, archive_is):
    for seed in (1, 2):
        data_dir = tmp_path / f"tfds{seed}"
        splits = random_set(seed)
        archive_is(write_home_archive(manual_folder(data_dir) / HOME_ARCHIVE, splits))
        for _ in range(2):
            np.testing.assert_array_equal(tfds_builder.load_tfds("test", data_dir)[0], splits["test"][0])
    kept = sorted((tmp_path / "cache" / "decoded").iterdir())
    assert len(kept) == 2
    # The second reading takes what is kept.
    np.savez(kept[0], images=np.zeros((1, 32, 32, 3), np.uint8), labels=np.zeros(1, np.int64))
    np.savez(kept[1], images=np.zeros((1, 32, 32, 3), np.uint8), labels=np.zeros(1, np.int64))
    assert len(tfds_builder.load_tfds("test", tmp_path / "tfds1")[1]) == 1


def test_what_another_process_prepared_meanwhile_is_taken(tmp_path, archive_is, monkeypatch):
    splits = random_set()
    archive = write_home_archive(manual_folder(tmp_path / "tfds") / HOME_ARCHIVE, splits)
    archive_is(archive)
    whole = tfds_builder.scratch_folder

    @contextlib.contextmanager
    def after_another(*arguments):
        monkeypatch.setattr(tfds_builder, "scratch_folder", whole)
        tfds_builder.load_tfds("test", tmp_path / "tfds")
        archive.unlink()
        with whole(*arguments) as scratch:
            yield scratch

    monkeypatch.setattr(tfds_builder, "scratch_folder", after_another)
    np.testing.assert_array_equal(tfds_builder.load_tfds("train", tmp_path / "tfds")[0], splits["train"][0])


def test_arrays_that_cannot_be_kept_are_given_all_the_same(tmp_path, archive_is, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path / "file" / "cache"))
    splits = random_set()
    archive_is(write_home_archive(manual_folder(tmp_path / "tfds") / HOME_ARCHIVE, splits))
    np.testing.assert_array_equal(tfds_builder.load_tfds("test", tmp_path / "tfds")[0], splits["test"][0])


def test_the_environment_chooses_the_folder(tmp_path, archive_is, monkeypatch):
    splits = random_set()
    data_dir = tmp_path / "tfds"
    archive_is(write_home_archive(manual_folder(data_dir) / HOME_ARCHIVE, splits))
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert tfds_builder.load_tfds("test")[2].is_relative_to(data_dir)


def test_an_unreachable_home_page_is_one_line_on_what_to_do(tmp_path, archive_is):
    archive_is(write_home_archive(tmp_path / HOME_ARCHIVE, random_set()))
    with pytest.raises(UserError) as caught:
        tfds_builder.load_tfds("test", tmp_path / "tfds")
    message = str(caught.value)
    assert "\n" not in message
    assert f"put cifar-10-binary.tar.gz into {tmp_path / 'tfds' / 'downloads' / 'manual'}" in message
    assert "python -m advx_jax.data.cifar10 --source=mirror" in message
    assert list((tmp_path / "tfds").iterdir()) == []


def test_other_bytes_than_the_published_ones_are_refused(tmp_path, home_page, archive_is):
    folder, address = home_page
    file = write_home_archive(folder / HOME_ARCHIVE, random_set(0))
    archive_is(file, address)
    write_home_archive(file, random_set(1))
    with pytest.raises(UserError, match=r"cannot fetch CIFAR-10 from http://127.* \(ValueError\)"):
        tfds_builder.load_tfds("test", tmp_path / "tfds")

    manual = manual_folder(tmp_path / "tfds")
    write_home_archive(manual / HOME_ARCHIVE, random_set(1))
    with pytest.raises(UserError, match=r"TFDS cannot prepare CIFAR-10 from .*manual.* wrong checksum") as caught:
        tfds_builder.load_tfds("test", tmp_path / "tfds")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "tfds").rglob("*array_record*"))


def test_an_archive_without_a_batch_is_refused(tmp_path, archive_is):
    splits = random_set()
    file = manual_folder(tmp_path / "tfds") / HOME_ARCHIVE
    archive_is(write_home_archive(file, {"train": splits["train"]}))
    with pytest.raises(UserError, match=r"expected test_batch\.bin in the archive"):
        tfds_builder.load_tfds("test", tmp_path / "tfds")
    assert not list((tmp_path / "tfds").rglob("*array_record*"))


def test_a_set_prepared_for_tensorflow_is_named(tmp_path, archive_is):
    data_dir = tmp_path / "tfds"
    archive_is(write_home_archive(manual_folder(data_dir) / HOME_ARCHIVE, random_set()))
    prepared = tfds_builder.load_tfds("train", data_dir)[2]
    info = prepared / "dataset_info.json"
    content = json.loads(info.read_text())
    assert content["fileFormat"] == "array_record"
    info.write_text(json.dumps({**content, "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=r"in the format array_record, got tfrecord, .* set \$TFDS_DATA_DIR"):
        tfds_builder.load_tfds("test", data_dir)
