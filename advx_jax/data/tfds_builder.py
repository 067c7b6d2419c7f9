"""CIFAR-10 through TensorFlow Datasets (TFDS), without TensorFlow.

The stock builder can be read without TensorFlow but not prepared. This one differs in how it reads
the archive; it writes the same data set (array_record files), which `tfds.data_source("cifar10")` reads.

Importing this module takes a second: import it only when TFDS was asked for.
"""

import contextlib
import hashlib
import io
import os
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pooch
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums, download_manager
from tensorflow_datasets.image_classification import cifar
from tqdm import tqdm

from advx_jax.cache import cache_dir
from advx_jax.data.binary_batches import BINARY_FILES, check_labels, parse_records
from advx_jax.data.image_set import CIFAR10_CLASSES, CIFAR10_SIDE, Labels, Pixels, Split
from advx_jax.errors import UserError
from advx_jax.files import atomic_write, scratch_folder

_FILE_FORMAT = "array_record"
_SECONDS_FOR_AN_ANSWER = 10
_IMAGE = (CIFAR10_SIDE, CIFAR10_SIDE)


class HomeArchive(NamedTuple):
    """The archive on the data set's home page.

    Attributes:
        url: where it is.
        n_bytes: its size.
        sha256: of its bytes.
    """

    url: str
    n_bytes: int
    sha256: str

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return PurePosixPath(self.url).name


class Cifar10(cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's CIFAR-10, prepared with `tarfile` and Pillow.

    Attributes:
        name: TFDS's name of the data set; the stock builder is registered under it.
        archive: what it is prepared from.
    """

    name = "cifar10"
    archive = HomeArchive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    )

    @property
    def url_infos(self) -> dict[str, Any]:
        """What TFDS checks the archive against; the file name lets it find one put there by hand."""
        info = checksums.UrlInfo(self.archive.n_bytes, self.archive.sha256, self.archive.filename)
        return {self.archive.url: info}

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        archive = Path(dl_manager.download(self.archive.url))
        self.info.features["label"].names = list(CIFAR10_CLASSES)
        return {split: self._generate_examples(split, archive) for split in BINARY_FILES}

    def _generate_examples(self, split: Split, archive: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        index = 0
        batches = _read_members(archive, BINARY_FILES[split])
        for name in BINARY_FILES[split]:
            for image, label in zip(*parse_records(batches[name], f"{name} of {archive}"), strict=True):
                # The keys and names that the stock builder gives.
                yield index, {"id": f"{split}_{index:05d}", "image": Image.fromarray(image), "label": int(label)}
                index += 1


def _read_members(archive: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    contents = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            file = tar.extractfile(member) if name in names else None
            if file is not None:
                contents[name] = file.read()
    for name in names:
        if name not in contents:
            raise UserError(f"expected {name} in the archive {archive}, got none")
    return contents


def load_tfds(split: Split, data_dir: Path | None = None) -> tuple[Pixels, Labels, Path]:
    """Load one split from TFDS, in the original order; fetch and prepare the data set first if need be.

    Args:
        split: which images.
        data_dir: TFDS's folder; by default `$TFDS_DATA_DIR`, else TFDS's own choice, `~/tensorflow_datasets`.

    Returns:
        Images, labels, and the folder that holds the prepared data set.

    Raises:
        UserError: the data set is not there and cannot be fetched, or was prepared for TensorFlow.
    """
    # TFDS reads the variable only when it is imported.
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    builder = _builder(Path(chosen).expanduser() if chosen else None)
    folder = Path(builder.data_dir)
    if not folder.exists():
        _prepare(builder)
        # Another process may have done it meanwhile, of which this builder knows nothing.
        builder = _builder(Path(chosen).expanduser() if chosen else None)
    cached = cache_dir() / "decoded" / f"tfds-{split}-{_identity(folder, split)}.npz"
    # What is damaged is decoded again.
    damages = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
    with contextlib.suppress(*damages), np.load(cached, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"], folder
    images, labels = _decode(builder, split)
    # They are there, even where they cannot be kept for the next time.
    with contextlib.suppress(OSError), atomic_write(cached) as temporary:
        np.savez(temporary, images=images, labels=labels)
    return images, labels, folder


def _builder(data_dir: Path | None) -> Cifar10:
    try:
        return Cifar10(data_dir=data_dir)
    except Exception as error:  # On a damaged description TFDS raises whatever comes.
        raise UserError(
            f"cannot read the description of TFDS's CIFAR-10 in {data_dir or 'its folder'}: {error}; "
            "remove the data set there, and it is prepared again"
        ) from error


def _prepare(builder: Cifar10) -> None:
    """Fetch the archive, unless it was put into TFDS's folder for manual downloads, and write the records."""
    root = Path(builder.data_dir_root)
    manual = root / "downloads" / "manual"
    root.mkdir(parents=True, exist_ok=True)
    with scratch_folder(root, ".advx") as scratch:
        if Path(builder.data_dir).exists():
            return
        if not (manual / builder.archive.filename).exists():
            # Not by TFDS itself: it tries ten times, for minutes and in silence, and Ctrl-C does not end its threads.
            _download(builder.archive, scratch, manual)
            manual = scratch
        config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                builder.download_and_prepare(download_dir=scratch, download_config=config, file_format=_FILE_FORMAT)
        except (download_manager.NonMatchingChecksumError, OSError, EOFError, tarfile.TarError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"TFDS cannot prepare CIFAR-10 from {manual / builder.archive.filename}: {reason}"
            ) from error


def _download(archive: HomeArchive, folder: Path, manual: Path) -> None:
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**18, timeout=_SECONDS_FOR_AN_ANSWER)
    try:
        pooch.retrieve(archive.url, f"sha256:{archive.sha256}", archive.filename, folder, downloader=downloader)
    except (OSError, ValueError) as error:  # No connection, or other bytes than the published ones.
        raise UserError(
            f"cannot fetch CIFAR-10 from {archive.url} ({type(error).__name__}); put {archive.filename} into {manual}, "
            "or use the mirror: python -m advx_jax.data.cifar10 --source=mirror"
        ) from error


def _identity(folder: Path, split: Split) -> str:
    """Tell one prepared data set from another, by the place, size and time of its files."""
    facts = []
    for path in sorted(folder.glob(f"*{split}*")):
        status = path.stat()
        facts.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _decode(builder: Cifar10, split: Split) -> tuple[Pixels, Labels]:
    """Decode every record and put them back into the order of their ids; TFDS stores them shuffled."""
    folder = Path(builder.data_dir).resolve()
    splits: Mapping[str, Any] = builder.info.splits
    if split not in splits or any(Path(path).resolve().parent != folder for path in splits[split].filepaths):
        raise UserError(f"expected the {split} records of TFDS's CIFAR-10 in {folder}, got none, or others")
    try:
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except (NotImplementedError, ValueError, AssertionError) as error:
        found = getattr(builder.info.file_format, "value", "none")
        raise UserError(
            f"expected TFDS's CIFAR-10 at {builder.data_dir} in the format {_FILE_FORMAT}, got {found}, "
            "which needs TensorFlow; set $TFDS_DATA_DIR to another folder"
        ) from error
    decoded = []
    try:
        for record in tqdm(records, desc=f"decoding the {split} set", unit="image"):
            with Image.open(io.BytesIO(record["image"]), formats=["PNG"]) as image:
                if (image.size, image.mode) != (_IMAGE, "RGB"):
                    raise UserError(f"expected RGB images of 32x32 pixels, got {image.mode} of {image.size}")
                decoded.append((record["id"], np.asarray(image), int(record["label"])))
        check_labels({label for _, _, label in decoded}, "its records")
    except Exception as error:  # On damaged records, array_record, TFDS and Pillow raise whatever comes.
        raise UserError(f"cannot read TFDS's CIFAR-10 at {builder.data_dir}: {error}") from error
    if not decoded:
        raise UserError(f"expected {split} images in TFDS's CIFAR-10 at {builder.data_dir}, got none")
    decoded.sort(key=lambda entry: entry[0])
    return np.stack([image for _, image, _ in decoded]), np.array([label for _, _, label in decoded], np.int64)
