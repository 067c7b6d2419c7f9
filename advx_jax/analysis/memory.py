"""How much memory there is for chunks of work."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from advx_jax.errors import UserError

# Of what is free: the rest is for other programs, and on an accelerator for the libraries that compute there.
_CPU_SHARE, _ACCELERATOR_SHARE = 0.5, 0.8
# Where nobody says how much there is.
_UNKNOWN = 4 * 2**30
_UNITS = {
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)},
}


@runtime_checkable
class Device(Protocol):
    """What must be known of a `jax.Device`."""

    platform: str

    def memory_stats(self) -> dict[str, int] | None:
        """Sizes in bytes by name, where the device tells them."""


def lane_budget(devices: Sequence[Device]) -> int:
    """Memory that a chunk may take on each lane, in bytes.

    That is `$ADVX_MEMORY`, of each accelerator or for all lanes of a CPU together; or a share of what is free.

    Args:
        devices: one for each lane.

    Raises:
        UserError: `$ADVX_MEMORY` is no size.
    """
    given = _given()
    if devices[0].platform == "cpu":
        return int((given or _CPU_SHARE * free_memory()) / len(devices))
    return int(given or _ACCELERATOR_SHARE * min(map(_free_on, devices)))


def give(size: str) -> None:
    """Set what chunks may take from now on, in place of `$ADVX_MEMORY`.

    Raises:
        UserError: it is no size.
    """
    _bytes_of(size, "--memory")
    os.environ["ADVX_MEMORY"] = size


def _given() -> int | None:
    text = os.environ.get("ADVX_MEMORY")
    return _bytes_of(text, "ADVX_MEMORY") if text else None


def _bytes_of(text: str, what: str) -> int:
    match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})", text, re.ASCII)
    if not match or float(match[1]) == 0:
        raise UserError(f"expected {what} to be a size such as 4GiB or 500MB, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _free_on(device: Device) -> int:
    """Bytes that are free on an accelerator, where it says so."""
    known = device.memory_stats() or {}
    return known["bytes_limit"] - known.get("bytes_in_use", 0) if "bytes_limit" in known else _UNKNOWN


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of this machine's memory that this process can still get, by the system and by its control groups.

    Args:
        root: of the file system in which the kernel's own files are.
    """
    known = [*_from_kernel(root), *_from_control_groups(root)]
    return max(0, min(known)) if known else _UNKNOWN


def _from_kernel(root: Path) -> Iterator[int]:
    if match := re.search(r"^MemAvailable:\s*(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE):
        yield int(match[1]) * 1024
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        # No word on what is free, as on macOS: half of all.
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _from_control_groups(root: Path) -> Iterator[int]:
    """What containers and cluster jobs may take: a group's limit less its use, files that can be dropped aside."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        # Every group above limits too. Inside a container its own may be the top one.
        parts = Path(group.lstrip("/"))
        for folder in (top / part for part in (parts, *parts.parents)):
            limit, used = (_text(folder / name).strip() for name in names[:2])
            if limit.isdecimal() and used.isdecimal():
                cached = re.search(rf"^{names[2]} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
                yield int(limit) - int(used) + (int(cached[1]) if cached else 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
