"""Small networks and `.pt` files for the tests of `convert`, made without PyTorch."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
from flax import traverse_util

from advx_jax.convert.keys import to_torch
from advx_jax.convert.pickle_writer import pickle_with_tensors
from advx_jax.networks.classifier import Classifier, Provenance, expected_variables
from advx_jax.networks.resnet import ResNetArchitecture

ROBUST = ResNetArchitecture((1, 2), (4, 6), n_classes=3, activation="half_huber", bowl_width=0.25)
PLAIN = ResNetArchitecture((2, 1, 1), (4, 4, 6), n_classes=5)
OPTIONS = {
    "robust_additions": True,
    "adversarial_training": False,
    "l2_min": True,
    "arch": [32, None, [1, 2], [4, 6], 3],
    "input_offset": [[0.5, 0.25, 0.75], [0.125, 0.5, 1.5]],
    "robust_integration": 12.5,
}
BATCHES_TRACKED = 123


def flat(tree) -> dict[str, np.ndarray]:
    """Variables by path."""
    return {path: np.asarray(value) for path, value in traverse_util.flatten_dict(tree, sep="/").items()}


def make_network(architecture: ResNetArchitecture = ROBUST) -> tuple[Classifier, Provenance]:
    """A network with numbers that are all different."""
    rng = np.random.default_rng(44)
    shapes = traverse_util.flatten_dict(expected_variables(architecture), sep="/")
    variables = {path: rng.normal(size=shape.shape).astype(np.float32) for path, shape in shapes.items()}
    # Variances are never negative.
    variables = {path: np.abs(value) if path.endswith("/var") else value for path, value in variables.items()}
    variables["constants/mean"], variables["constants/std"] = np.array(OPTIONS["input_offset"], np.float32)
    robust = architecture.activation == "half_huber"
    options = {"adversarial_training": False, "l2_min": True, "robust_additions": robust}
    provenance = Provenance("tiny", tuple(options.items()), 12.5 if robust else None, None, BATCHES_TRACKED)
    return Classifier(traverse_util.unflatten_dict(variables, sep="/"), architecture), provenance


def make_tensors(architecture: ResNetArchitecture = ROBUST) -> "OrderedDict[str, np.ndarray]":
    """The same network's tensors as PyTorch names them."""
    classifier, provenance = make_network(architecture)
    return OrderedDict(to_torch(classifier.variables, architecture, provenance.batches_tracked))


def make_content(tensors=None, **options) -> dict:
    """What a `.pt` file of the small network holds; option values of `...` are left out."""
    chosen = {key: value for key, value in {**OPTIONS, **options}.items() if value is not ...}
    return {"model_params": make_tensors() if tensors is None else tensors, "training_options": chosen}


def legacy_bytes(program: bytes, storages: list[bytes], counts: list[int] | None = None, **changes) -> bytes:
    """A legacy file around a pickle; `changes` replace the header's values."""
    header = {
        "magic_number": 0x1950A86A20F9469CFC6C,
        "protocol": 1001,
        "system": {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
        "keys": [str(i) for i in range(len(storages))],
        "tail": b"",
        **changes,
    }
    first = [pickle.dumps(header[name], protocol=2) for name in ("magic_number", "protocol", "system")]
    counts = counts or [len(storage) // (8 if len(storage) == 8 else 4) for storage in storages]
    blocks = [struct.pack("<q", count) + storage for count, storage in zip(counts, storages, strict=True)]
    return b"".join([*first, program, pickle.dumps(header["keys"], protocol=2), *blocks, header["tail"]])


def zip_bytes(program: bytes, storages: list[bytes], compression: int = zipfile.ZIP_STORED, **changes) -> bytes:
    """A zip archive around a pickle; `changes` add or replace entries, None removes one."""
    entries = {"data.pkl": program, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{i}": storage for i, storage in enumerate(storages)}
    entries |= changes.get("entries", {})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(zipfile.ZipInfo(f"tiny/{name}"), content, compression)
    return buffer.getvalue()


def as_legacy(content: object) -> bytes:
    """A legacy file of plain values and arrays."""
    return legacy_bytes(*_with_real_counts(content))


def as_zip(content: object) -> bytes:
    """A zip archive of plain values and arrays."""
    return zip_bytes(*pickle_with_tensors(content))


def _with_real_counts(content: object):
    program, storages = pickle_with_tensors(content)
    return program, storages, _counts(content)


def _counts(content: object) -> list[int]:
    if isinstance(content, np.ndarray):
        return [content.size]
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list | tuple):
        return [count for part in content for count in _counts(part)]
    return []
