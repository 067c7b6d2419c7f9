import numpy as np
import pytest
from cifar10_files import python2_batch, python3_batch, random_set, write_pickled_folder

from advx_jax.data.pickled_batches import read_pickled
from advx_jax.errors import UserError

N_MUTATIONS = 300

WRITERS = {
    "python 2": python2_batch,
    **{f"python 3, protocol {p}": python3_batch(p) for p in (2, 3, 4)},
    "python 3, text keys": python3_batch(2, as_bytes=False),
}


@pytest.mark.parametrize("dump", WRITERS.values(), ids=WRITERS.keys())
def test_reads_the_batches_in_order(tmp_path, dump):
    splits = random_set()
    folder = write_pickled_folder(tmp_path / "set", splits, dump)
    for split, (images, labels) in splits.items():
        read_images, read_labels = read_pickled(folder, split)
        np.testing.assert_array_equal(read_images, images)
        np.testing.assert_array_equal(read_labels, labels)
        assert read_labels.dtype == np.int64


def test_reads_an_array_in_fortran_order(tmp_path):
    splits = random_set()

    def dump(planes, labels):
        return python3_batch(2)(np.asfortranarray(planes), labels)

    images, _ = read_pickled(write_pickled_folder(tmp_path / "set", splits, dump), "test")
    np.testing.assert_array_equal(images, splits["test"][0])


def _test_batch(tmp_path, content: bytes):
    tmp_path.joinpath("test_batch").write_bytes(content)
    return read_pickled(tmp_path, "test")


def _planes(n: int = 2) -> np.ndarray:
    return np.zeros((n, 3072), np.uint8)


@pytest.mark.parametrize(
    ("planes", "labels", "message"),
    [
        (_planes(), [0], "expected a label for each image .* got 1 for 2"),
        (_planes(0), [], "expected a label for each image .* got 0 for 0"),
        (_planes(), [0, 10], "expected labels from 0 to 9 in .*, got 10"),
        (_planes(), [0, -1], "expected labels from 0 to 9 in .*, got -1"),
        (_planes(), [0, 2**70], "expected labels from 0 to 9"),
        (_planes(), [0, True], "expected `labels` .* to be a list of whole numbers"),
        (_planes(), (0, 1), "expected `labels` .* to be a list of whole numbers"),
        (_planes()[:, 1:], [0, 1], "expected `data` .* shape"),
        (_planes().reshape(2, 3, 1024), [0, 1], "expected `data` .* shape"),
        (b"bytes", [0, 1], "expected `data` .* shape"),
        (_planes().astype(np.float32), [0, 1], "no plain data"),
    ],
)
def test_refuses_batches_of_another_form(tmp_path, planes, labels, message):
    with pytest.raises(UserError, match=message) as caught:
        _test_batch(tmp_path, python3_batch(3)(planes, labels))
    assert "test_batch" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x02}.", b"\x80\x02K\x01.", b"\x80\x02]."])
def test_refuses_what_is_no_batch(tmp_path, content):
    with pytest.raises(UserError, match="test_batch"):
        _test_batch(tmp_path, content)


def test_mutated_batches_are_read_or_refused_in_one_line(tmp_path):
    rng = np.random.default_rng(0)
    whole = python2_batch(rng.integers(0, 256, (1, 3072), np.uint8), [3])
    # What lies around the pixels decides; nearly all bytes are pixels.
    pixels = whole.index(b"\x89T") + 6
    places = np.concatenate([np.arange(pixels), np.arange(pixels + 3072, len(whole))])
    errors = []
    for _ in range(N_MUTATIONS):
        content = bytearray(whole)
        match rng.integers(3):
            case 0:
                content[rng.choice(places)] = rng.integers(256)
            case 1:
                del content[int(rng.choice(places)) :]
            case 2:
                start = int(rng.choice(places))
                content[start : start + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(9)))
        try:
            images, labels = _test_batch(tmp_path, bytes(content))
            assert images.shape == (1, 32, 32, 3)
            assert 0 <= labels[0] < 10
        except UserError as error:
            errors.append(str(error))
    assert all("test_batch" in error for error in errors)
    # A name or a memo number that nobody asks for may be anything; most other changes are felt.
    assert N_MUTATIONS / 2 < len(errors) < N_MUTATIONS
