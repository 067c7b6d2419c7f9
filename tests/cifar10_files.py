"""Small data sets in every form that CIFAR-10 comes in, with random images."""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import pickle
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES_PER_BATCH = {"train": 3, "test": 4}
N_BATCHES = {"train": 5, "test": 1}
HOME_ARCHIVE = "cifar-10-binary.tar.gz"
# The discard port: nothing listens there.
CLOSED_PORT = "http://127.0.0.1:9"


def random_set(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of both splits."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, n_batches in N_BATCHES.items():
        n = n_batches * IMAGES_PER_BATCH[split]
        splits[split] = rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n, np.int64)
    return splits


def _batches(splits, suffix: str):
    """Name, images and labels of each batch."""
    for split, (images, labels) in splits.items():
        names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        parts = zip(names, np.split(images, len(names)), np.split(labels, len(names)), strict=True)
        for name, some_images, some_labels in parts:
            yield name + suffix, some_images, some_labels


def _records(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Binary records, one byte at a time as the home page describes them."""
    data = bytearray()
    for image, label in zip(images, labels, strict=True):
        data.append(int(label))
        for channel in range(3):
            for row in range(32):
                data += bytes(image[row, :, channel])
    return bytes(data)


def write_binary_folder(folder: Path, splits) -> Path:
    folder.mkdir(parents=True)
    for name, images, labels in _batches(splits, ".bin"):
        (folder / name).write_bytes(_records(images, labels))
    return folder


def _planes(images: np.ndarray) -> np.ndarray:
    return np.stack([image.transpose(2, 0, 1).ravel() for image in images])


def write_pickled_folder(folder: Path, splits, dump=None) -> Path:
    folder.mkdir(parents=True)
    for name, images, labels in _batches(splits, ""):
        batch = (dump or python2_batch)(_planes(images), labels.tolist())
        (folder / name).write_bytes(batch)
    return folder


def python3_batch(protocol: int, as_bytes: bool = True):
    """How Python 3 would save a batch again."""

    def dump(planes: np.ndarray, labels: list[int]) -> bytes:
        batch = {"batch_label": "some batch", "labels": labels, "data": planes, "filenames": ["a.png", "b.png"]}
        return pickle.dumps({k.encode(): v for k, v in batch.items()} if as_bytes else batch, protocol)

    return dump


def python2_batch(planes: np.ndarray, labels: list[int]) -> bytes:
    """The bytes that Python 2's cPickle writes in protocol 2: text as byte strings, old module names."""
    text = [0]

    def remember() -> bytes:
        text[0] += 1
        return b"q" + bytes([text[0]])

    def string(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value + remember()

    def integer(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    raw = planes.tobytes()
    out = b"\x80\x02}" + remember() + b"("
    out += string(b"batch_label") + string(b"some batch")
    out += string(b"labels") + b"]" + remember() + b"(" + b"".join(integer(label) for label in labels) + b"e"
    out += string(b"data")
    out += b"cnumpy.core.multiarray\n_reconstruct\n" + remember()
    out += b"cnumpy\nndarray\n" + remember() + b"K\x00\x85" + string(b"b") + b"\x87R" + remember()
    out += b"(K\x01" + integer(planes.shape[0]) + integer(planes.shape[1]) + b"\x86"
    out += b"cnumpy\ndtype\n" + remember() + string(b"u1") + b"K\x00K\x01\x87R" + remember()
    out += b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    out += b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    out += string(b"filenames") + b"]" + remember() + b"(" + string(b"a.png") + string(b"b.png") + b"e"
    return out + b"u."


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_home_archive(path: Path, splits) -> Path:
    """As the archive on the home page."""
    with tarfile.open(path, "w:gz") as archive:
        for name, images, labels in _batches(splits, ".bin"):
            _add(archive, f"cifar-10-batches-bin/{name}", _records(images, labels))
    return path


def write_mirror_tarball(path: Path, splits, leave_out: str = "") -> Path:
    """As the npm package."""
    with tarfile.open(path, "w:gz") as archive:
        for name, images, _ in _batches(splits, ".png"):
            stream = io.BytesIO()
            Image.fromarray(images.reshape(len(images), 1024, 3)).save(stream, "PNG")
            if name != leave_out:
                _add(archive, f"package/{name}", stream.getvalue())
        for split, (_, labels) in splits.items():
            _add(archive, f"package/{split}_lables.json", json.dumps(labels.tolist()).encode())
        _add(archive, "package/../../outside.txt", b"never unpacked")
    return path


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder over HTTP; gives the address."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def take_for_the_home_archive(monkeypatch, tfds_builder, file: Path, address: str = CLOSED_PORT) -> None:
    """Let the TFDS builder take a small archive for the published one."""
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    archive = tfds_builder.HomeArchive(f"{address}/{HOME_ARCHIVE}", len(content), digest)
    monkeypatch.setattr(tfds_builder.Cifar10, "archive", archive)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def manual_folder(tfds_folder: Path) -> Path:
    """Where TFDS looks for what was downloaded by hand."""
    folder = tfds_folder / "downloads" / "manual"
    folder.mkdir(parents=True)
    return folder
