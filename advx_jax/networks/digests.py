"""Digests of named arrays: whether numbers are still those that were written."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np


def digest(arrays: Mapping[str, np.ndarray], about: Mapping[str, object]) -> str:
    """Sha256 of arrays, their names, types and shapes, and of what is said about them.

    Args:
        arrays: by name, in any order.
        about: what JSON can hold, by key, in any order.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        value = np.asarray(arrays[name])
        sha256.update(json.dumps([name, value.dtype.name, value.shape]).encode())
        sha256.update(value.tobytes())
    return sha256.hexdigest()
