"""PyTorch's two file formats: pickle and storages one after the other (legacy), or in a zip archive."""

import io
import struct
import zipfile
import zlib
from typing import NamedTuple

from advx_jax.errors import UserError
from advx_jax.messages import shown

from .pickled import unpickle
from .tensor_specs import TensorSpecs

_LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ZIP_SIGNATURE = b"PK\x03\x04"
_ZIP_DIRECTORY_SIGNATURE = b"PK\x01\x02"
# The published networks would take 312; each costs memory before it can be looked at.
_MOST_ZIP_ENTRIES = 20_000
# Of the header before an entry: where it says how long the name and an extra field are that follow it, and its size.
_ZIP_LENGTHS, _ZIP_HEADER = 26, 30
_ZIP_VERSIONS = range(1, 11)
_ENCRYPTED = 0x1
# zipfile does not say what a damaged archive can make it raise.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class Contents(NamedTuple):
    """What a `.pt` file holds.

    Attributes:
        value: the pickled object, with `TensorSpec`s in place of tensors.
        storages: bytes of each storage that the specs refer to, by key.
    """

    value: object
    storages: dict[str, memoryview]


def read_container(data: bytes) -> Contents:
    """Take a `.pt` file apart, of whichever of the two formats.

    Raises:
        UserError: it is damaged, or is no such file.
    """
    return _read_zip(data) if data.startswith(_ZIP_SIGNATURE) else _read_legacy(data)


def _read_legacy(data: bytes) -> Contents:
    header_specs = TensorSpecs(limit=0)
    magic_number, position = unpickle(data, 0, header_specs)
    if magic_number != _LEGACY_MAGIC_NUMBER:
        raise UserError("expected a file that PyTorch saved, got another pickle")
    protocol, position = unpickle(data, position, header_specs)
    if protocol != _LEGACY_PROTOCOL:
        raise UserError(f"expected PyTorch's serialization protocol {_LEGACY_PROTOCOL}, got {shown(protocol)}")
    system, position = unpickle(data, position, header_specs)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UserError("expected a file written on a little-endian machine, got another")

    specs = TensorSpecs(limit=len(data))
    value, position = unpickle(data, position, specs)
    keys, position = unpickle(data, position, header_specs)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError("expected the list of storages, got something else")
    if len(set(keys)) != len(keys) or set(keys) != specs.storages.keys():
        raise UserError("the list of storages does not name those of the tensors, each once")

    storages = {}
    for key in keys:
        spec = specs.storages[key]
        start, position = position + 8, position + 8 + spec.n_bytes
        if position > len(data):
            raise UserError(f"the file is cut off in storage {shown(key)}")
        (count,) = struct.unpack_from("<q", data, start - 8)
        if count != spec.count:
            raise UserError(f"storage {shown(key)}: expected {spec.count} elements, got {count}")
        storages[key] = memoryview(data)[start:position]
    if position != len(data):
        raise UserError(f"expected the file to end after {position} bytes, got {len(data)}")
    return Contents(value, storages)


def _read_zip(data: bytes) -> Contents:
    try:
        return _read_zip_entries(data)
    except UserError:
        raise
    except _ZIP_ERRORS as error:
        raise UserError(f"the zip archive is damaged: {shown(str(error))}") from error


def _read_zip_entries(data: bytes) -> Contents:
    if data.count(_ZIP_DIRECTORY_SIGNATURE) > _MOST_ZIP_ENTRIES:
        raise UserError(f"expected a zip archive of at most {_MOST_ZIP_ENTRIES} entries, got more")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        _check_entries(archive.infolist(), len(data))
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"expected one data.pkl in the zip archive, got {len(pickles)}")
        root = pickles[0].removesuffix("data.pkl")
        entries = {name.removeprefix(root): info for name, info in archive.NameToInfo.items() if name.startswith(root)}
        _check_version(archive, entries)

        pickled = archive.read(entries["data.pkl"])
        specs = TensorSpecs(limit=len(data))
        value, end = unpickle(pickled, 0, specs)
        if end != len(pickled):
            raise UserError(f"expected data.pkl to end after {end} bytes, got {len(pickled)}")
        storages = {}
        for spec in specs.storages.values():
            entry = entries.get(f"data/{spec.key}")
            if entry is None:
                raise UserError(f"storage {shown(spec.key)} is not in the zip archive")
            if entry.file_size != spec.n_bytes:
                raise UserError(f"storage {shown(spec.key)}: expected {spec.n_bytes} bytes, got {entry.file_size}")
            storages[spec.key] = _content(archive, entry, data)
    return Contents(value, storages)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> memoryview:
    """The bytes of an uncompressed entry where they lie, with no copy of them."""
    # Holds the entry's own header against the directory's.
    archive.open(entry).close()
    lengths = struct.unpack_from("<2H", data, entry.header_offset + _ZIP_LENGTHS)
    start = entry.header_offset + _ZIP_HEADER + sum(lengths)
    content = memoryview(data)[start : start + entry.file_size]
    if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
        raise zipfile.BadZipFile(f"bad checksum of {shown(entry.filename)}")
    return content


def _check_entries(entries: list[zipfile.ZipInfo], limit: int) -> None:
    """Refuse, before anything is read, what PyTorch does not write: it stores entries as they are."""
    names = {entry.filename for entry in entries}
    if len(names) != len(entries):
        raise UserError("the zip archive has two entries of the same name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UserError(f"expected uncompressed entries in the zip archive, got a packed {shown(entry.filename)}")
        if entry.flag_bits & _ENCRYPTED:
            raise UserError(f"expected open entries in the zip archive, got an encrypted {shown(entry.filename)}")
    if sum(entry.file_size for entry in entries) > limit:
        raise UserError("the entries of the zip archive spec more bytes together than the file holds")


def _check_version(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> None:
    version = archive.read(entries["version"]).strip() if "version" in entries else b""
    if version not in {str(known).encode() for known in _ZIP_VERSIONS}:
        raise UserError(
            f"expected a PyTorch archive of version {_ZIP_VERSIONS[0]} to {_ZIP_VERSIONS[-1]}, "
            f"got {shown(version.decode('latin-1'))}"
        )
    # Archives from before PyTorch 2.0 do not say, and are little-endian.
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise UserError("expected a file written on a little-endian machine, got another")
