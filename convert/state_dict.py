"""The state dict in a PyTorch file, wherever it lies and whatever was wrapped around the network.

People save it bare, or under a key beside the optimizer's state; from inside of DataParallel, of a compiled
module, or of `nn.Sequential(Normalize(...), net)`; in half precision, with or without counters. Here all of
these become the same thing: float32 arrays under the names that the network itself gives them, and the
normalisation of its input beside them (docs/networks.md, PyTorch checkpoints).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import listed, nearest, shown
from advx_jax.networks.classifier import Wrapper

from .containers import Contents
from .normalisation import Normalisation
from .pickled_objects import NumpyArray
from .tensor_specs import TensorSpec

_PREFERENCE = (
    *("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema"),
    *("state_dict", "model_state_dict", "model", "net", "network", "params", "weights"),
    *("last", "best"),
)
"""Keys under which a state dict lies; of several the first is taken."""

_DEEPEST = 4
# That are looked at: a file may name one dict in many places.
_MOST_ENTRIES = 1_000_000
# What PyTorch puts among a network's tensors that takes no part in what it computes.
_NOT_WEIGHTS = ("n_averaged", "_extra_state")
_PRECISIONS = ("float16", "bfloat16", "float32", "float64")
_MOST_BATCHES = 2**62
_BATCHES = ".num_batches_tracked"
_MEAN = re.compile(r"(?P<where>(.*\.)?)(?P<name>mu|_?mean|(img|image|input|pixel)_mean)")
# Names of layers over again, which RobustBench passes over as well.
_REPEATED = "model_preact_hl1."
# The network of this project's own PyTorch code has all its names but one under this part.
_NO_WRAPPER = "pipe."


@dataclass(frozen=True)
class StateDict:
    """A network's tensors as a PyTorch file holds them.

    Attributes:
        tensors: by the names that the network's own class gives them, in the file's order; float32, but for
            those of whole numbers; the counters `num_batches_tracked` are int64, and 0 where the file has none.
        normalisation: of the input, if the file holds it.
        wrapper: what the file calls that, if it does; what it adds to all other names.
        key: under which they lie in the file, parts joined by dots; empty if they are all that it holds.
        others: keys of other state dicts in the file.
    """

    tensors: dict[str, np.ndarray]
    normalisation: Normalisation | None
    wrapper: Wrapper | None
    key: str
    others: tuple[str, ...]


def read_state_dict(contents: Contents, key: str | None = None) -> StateDict:
    """Find and read the state dict in what a PyTorch file holds.

    Args:
        contents: of the file.
        key: where it lies, parts joined by dots; if None, it is looked for.

    Raises:
        UserError: there is none, or none under the key, or nothing tells which of several is meant.
    """
    found = dict(_state_dicts(contents.value))
    if not found:
        raise UserError(f"expected a state dict of a network's tensors, got {contents_shown(contents.value)}")
    chosen = _chosen(list(found), key)
    tensors = read_tensors(found[chosen], contents)
    tensors, normalisation, wrapper = _without_wrappers(tensors)
    others = tuple(".".join(path) for path in found if path != chosen)
    return StateDict(with_counters(tensors), normalisation, wrapper, ".".join(chosen), others)


def read_tensors(entries: Mapping[str, object], contents: Contents) -> dict[str, np.ndarray]:
    """Read the entries of a state dict: numbers of the common precisions as float32, counters as int64.

    Raises:
        UserError: an entry is no tensor, or the tensors take more memory together than the file has bytes,
            as overlapping ones can.
    """
    left = sum(len(storage) for storage in contents.storages.values())
    # Arrays of NumPy have their bytes with them, several perhaps the same ones.
    arrays = {
        name: entry.values
        for name, entry in entries.items()
        if isinstance(entry, NumpyArray) and entry.values is not None
    }
    left += sum({array.__array_interface__["data"][0]: array.nbytes for array in arrays.values()}.values())
    views: dict[TensorSpec | int, np.ndarray] = {}
    tensors = {}
    for name, entry in entries.items():
        if name.rpartition(".")[2] in _NOT_WEIGHTS:
            continue
        known_as: TensorSpec | int
        if isinstance(entry, TensorSpec):
            known_as, n_bytes = entry, entry.n_bytes
        elif name in arrays:
            known_as, n_bytes = id(entry), arrays[name].nbytes
        else:
            raise UserError(f"expected a tensor {shown(name)}, got {shown(entry)}")
        if known_as not in views:
            left -= n_bytes
            if left < 0:
                raise UserError(f"{shown(name)}: the tensors claim more bytes together than the file holds")
            stored = entry.read(contents.storages[entry.storage.key]) if isinstance(entry, TensorSpec) else arrays[name]
            views[known_as] = _as_read(name, stored)
        tensors[name] = views[known_as]
    return tensors


def contents_shown(value: object) -> str:
    """Describe what a file holds instead of what was expected."""
    if not isinstance(value, dict):
        return shown(value)
    names = ", ".join(shown(key) for key in list(value)[:3])
    return f"{len(value)} keys: {names}" + (", …" if len(value) > 3 else "")


def _as_read(name: str, tensor: np.ndarray) -> np.ndarray:
    if name.endswith(_BATCHES[1:]) and (tensor.dtype.kind in "iu" or tensor.dtype.name in _PRECISIONS):
        # Who halves everything halves these, too, and makes large ones infinite; no network computes with them.
        return np.where(np.abs(tensor.astype(np.float64)) < _MOST_BATCHES, tensor, 0).astype(np.int64)
    if tensor.dtype.name not in _PRECISIONS:
        return tensor
    # What is too large becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return tensor.astype(np.float32, copy=False)


def _state_dicts(value: object) -> Iterator[tuple[tuple[str, ...], dict[str, object]]]:
    """All dicts that hold weights, with the keys that lead to them; the file's may lead in circles."""
    level: list[tuple[tuple[str, ...], object]] = [((), value)]
    left = _MOST_ENTRIES
    while level:
        deeper: list[tuple[tuple[str, ...], object]] = []
        for path, inner in level:
            if not isinstance(inner, dict) or len(inner) > left:
                continue
            left -= len(inner)
            if any(name.rpartition(".")[2] == "weight" and _is_weight(entry) for name, entry in inner.items()):
                yield path, inner
            if len(path) < _DEEPEST:
                deeper += [((*path, name), entry) for name, entry in inner.items() if isinstance(entry, dict)]
        level = deeper


def _is_weight(entry: object) -> bool:
    if isinstance(entry, NumpyArray):
        return entry.values is not None and entry.values.ndim > 1
    return isinstance(entry, TensorSpec) and len(entry.shape) > 1


def _chosen(paths: list[tuple[str, ...]], key: str | None) -> tuple[str, ...]:
    names = [".".join(path) for path in paths]
    if key is not None:
        if key not in names:
            offered = listed([shown(name) for name in names])
            raise UserError(f"expected a key of a state dict, {offered}, got {shown(key)}{nearest(key, names, 0.4)}")
        return paths[names.index(key)]
    ranks = [tuple(_PREFERENCE.index(part) if part in _PREFERENCE else len(_PREFERENCE) for part in p) for p in paths]
    best = min(ranks)
    if ranks.count(best) > 1:
        offered = listed([shown(name) for name, rank in zip(names, ranks, strict=True) if rank == best])
        raise UserError(f"several state dicts, under the keys {offered}: choose one with --state_dict")
    return paths[ranks.index(best)]


def _without_wrappers(
    tensors: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], Normalisation | None, Wrapper | None]:
    """Take the names of wrappers away, and the normalisation out."""
    tensors = {name: tensor for name, tensor in tensors.items() if _REPEATED not in name}
    outside = _common_parts(list(tensors))
    tensors = {name.removeprefix(outside): tensor for name, tensor in tensors.items()}
    pair = _normalisation_names(tensors)
    prefix = _common_parts([name for name in tensors if name not in pair])
    network = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name not in pair}
    if not pair:
        return network, None, None
    mean, std = pair
    normalisation = Normalisation.of_tensors(tensors[mean], tensors[std])
    wrapper = Wrapper(mean, std, prefix, tensors[mean].ndim, shared=tensors[mean].size == 1)
    if not wrapper.can_be_kept():
        raise UserError(
            "expected names of letters, digits, _, . and - (at most 200) for a network's normalisation and what it is "
            f"in, got {', '.join(map(shown, wrapper[:3]))}"
        )
    return network, normalisation, wrapper


def _common_parts(names: list[str]) -> str:
    """The parts, with their dots, with which all names begin: those of wrappers."""
    prefix = ""
    while names and "." in names[0][len(prefix) :]:
        longer = f"{prefix}{names[0][len(prefix) :].partition('.')[0]}."
        if longer == _NO_WRAPPER or not all(name.startswith(longer) for name in names):
            break
        prefix = longer
    return prefix


def _normalisation_names(tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Names of the mean and the standard deviation of the input, if there is one pair of such tensors."""
    pairs = []
    for name in tensors:
        match = _MEAN.fullmatch(name)
        if match is None:
            continue
        mean = match["name"]
        for std in ("sigma", "std") if mean == "mu" else (mean.replace("mean", "std"), "sigma"):
            other = f"{match['where']}{std}"
            if other in tensors and _is_per_channel(tensors[name]) and tensors[name].shape == tensors[other].shape:
                pairs.append((name, other))
    return pairs[0] if len(pairs) == 1 else ()


def _is_per_channel(tensor: np.ndarray) -> bool:
    """Whether the shape is (channels), (channels, 1, 1), (1, channels, 1, 1), or () for one number for all."""
    shape = tensor.shape
    return tensor.dtype.kind == "f" and (
        len(shape) <= 1 or shape[1:] == (1, 1) or (len(shape) == 4 and shape[0] == 1 and shape[2:] == (1, 1))
    )


def with_counters(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give a BatchNorm from before PyTorch 0.4 the counter that it lacks."""
    whole = {}
    for name, tensor in tensors.items():
        whole[name] = tensor
        counter = name.removesuffix(".running_var") + _BATCHES
        if name.endswith(".running_var") and counter not in tensors:
            whole[counter] = np.zeros((), np.int64)
    return whole
