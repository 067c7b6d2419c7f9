import numpy as np
import pytest
from cifar10_files import random_set, write_binary_folder

from advx_jax.data.binary_batches import parse_records, read_binary, write_binary
from advx_jax.errors import UserError


def test_a_record_is_a_label_and_three_planes():
    record = bytearray(3073)
    record[0] = 7
    row, column, channel = 5, 30, 2
    record[1 + channel * 1024 + row * 32 + column] = 200
    images, labels = parse_records(bytes(record), "a record")
    assert labels.tolist() == [7]
    assert images[0, row, column, channel] == 200
    assert images.sum() == 200


def test_reads_the_batches_in_order(tmp_path):
    splits = random_set()
    folder = write_binary_folder(tmp_path / "set", splits)
    for split, (images, labels) in splits.items():
        read_images, read_labels = read_binary(folder, split)
        np.testing.assert_array_equal(read_images, images)
        np.testing.assert_array_equal(read_labels, labels)


def test_writes_what_a_writer_of_its_own_writes(tmp_path):
    splits = random_set()
    reference = write_binary_folder(tmp_path / "reference", splits)
    written = tmp_path / "written"
    written.mkdir()
    for split, (images, labels) in splits.items():
        write_binary(written, split, images, labels)
    for path in reference.iterdir():
        assert (written / path.name).read_bytes() == path.read_bytes(), path.name
    names = (written / "batches.meta.txt").read_text().split()
    assert names[0] == "airplane"
    assert len(names) == 10


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_refuses_what_is_no_whole_number_of_records(tmp_path, size):
    folder = write_binary_folder(tmp_path / "set", random_set())
    (folder / "data_batch_3.bin").write_bytes(bytes(size))
    with pytest.raises(UserError, match=rf"expected records of 3073 bytes in .*data_batch_3\.bin, got {size} bytes"):
        read_binary(folder, "train")


def test_refuses_labels_above_nine(tmp_path):
    folder = write_binary_folder(tmp_path / "set", random_set())
    (folder / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(UserError, match=r"expected labels from 0 to 9 in .*test_batch\.bin, got 10"):
        read_binary(folder, "test")


def test_names_the_missing_file(tmp_path):
    folder = write_binary_folder(tmp_path / "set", random_set())
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_4\.bin: No such file"):
        read_binary(folder, "train")
    assert len(read_binary(folder, "test")[1]) == 4
