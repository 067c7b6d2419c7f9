"""The files of a training run beside its checkpoints: its config, and its metrics as JSON lines."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from advx_jax.errors import UserError
from advx_jax.files import atomic_write, locked
from advx_jax.networks.registry import WORKDIR_NETWORK
from advx_jax.reports.results_json import environment, read_json, write_json
from advx_jax.strict_json import parsed_json
from advx_jax.training.checkpoints import CHECKPOINTS, has_checkpoints
from advx_jax.training.config_fields import differing_fields
from advx_jax.training.data_facts import CIFAR10_FACTS, DataFacts
from advx_jax.training.export import BEST_NETWORK
from advx_jax.training.recipe import completed

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"

_FORMAT = 1
_LOCK_FILE = ".lock"
# Where things lie may change; what they are may not, and has fingerprints. What is kept changes no result.
_MAY_DIFFER = ("keeping.", "data", "init_from")
DEVICES = "devices"
"""The fingerprint of the number of devices, for runs in which each has batch statistics of its own."""

# Fingerprints that not every version told, nor every command does.
_NOT_ALWAYS = (DEVICES,)


class KeptConfig(NamedTuple):
    """What a run was made with.

    Attributes:
        config: resolved, as nested dictionaries.
        fingerprints: of what the run depends on beside the config.
    """

    config: dict[str, Any]
    fingerprints: dict[str, Any]


def claim_workdir(
    workdir: Path,
    config: Mapping[str, Any],
    fingerprints: Mapping[str, str | None],
    facts: DataFacts = CIFAR10_FACTS,
    replace_unbegun: bool = False,
) -> None:
    """Write the resolved config to the workdir, or compare it with the one that is there.

    Args:
        workdir: of the run.
        config: nested dictionaries; written as `completed`.
        fingerprints: of what the run depends on beside the config: training images, first network, and devices where
            their number matters.
        facts: of the training images; written for people to read.
        replace_unbegun: take the place of a run that has nothing to go on from, whatever its config, as of one that
            stopped before its first checkpoint; only for whoever holds the workdir (`workdir_held`).

    Raises:
        UserError: the workdir's run was made with another config; the fields are named.
    """
    path, config = workdir / CONFIG_FILE, completed(config, facts)
    kept = dict(fingerprints)
    if path.exists():
        there = read_config(workdir)
        problems = differing_fields(completed(there.config), config, ignored=_MAY_DIFFER)
        problems += differing_fields(_with_newer(there.fingerprints, kept), _with_newer(kept, there.fingerprints))
        if not problems:
            kept = _with_newer(kept, there.fingerprints)
        elif not replace_unbegun or is_begun(workdir):
            raise UserError(
                f"expected the config of the run in {workdir}, got another ({'; '.join(problems)}); "
                "choose another --workdir"
            )
    elif (workdir / CHECKPOINTS).exists():
        raise UserError(f"expected a new workdir or one with a {CONFIG_FILE}, got checkpoints without it in {workdir}")
    content = {"format": _FORMAT, "config": config, "fingerprints": kept, "environment": environment()}
    content["data"] = dataclasses.asdict(facts)
    write_json(path, content)


def is_begun(workdir: Path) -> bool:
    """Whether a run has something that another config must not take the place of.

    That is a checkpoint, a network, or the metrics of an epoch; those of single steps are of work that is lost.
    """
    has_network = any((workdir / name).exists() for name in (WORKDIR_NETWORK, BEST_NETWORK))
    return has_network or has_checkpoints(workdir) or any(line["kind"] == "epoch" for line in read_metrics(workdir))


def _with_newer(fingerprints: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Take over what only other fingerprints tell, as not every version, or not every command, does."""
    return {**{name: others[name] for name in _NOT_ALWAYS if name in others}, **fingerprints}


def read_config(workdir: Path) -> KeptConfig:
    """What `claim_workdir` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    path = workdir / CONFIG_FILE
    there = read_json(path, _FORMAT)
    if not all(isinstance(there.get(part), dict) for part in ("config", "fingerprints")):
        raise UserError(f"expected the config and the fingerprints of a run in {path}, got {', '.join(there)}")
    return KeptConfig(there["config"], there["fingerprints"])


@contextlib.contextmanager
def workdir_held(workdir: Path) -> Iterator[None]:
    """Keep other processes from training in a workdir; whoever is killed holds it no longer.

    Raises:
        UserError: another process holds it.
    """
    with locked(workdir / _LOCK_FILE, wait=False) as free:
        if not free:
            raise UserError(f"another process trains in {workdir}: wait until it ends, or choose another --workdir")
        yield


class MetricsFile:
    """JSON lines of a run, one a logged step and one an epoch; each is on disk as soon as it is added.

    Args:
        workdir: of the run.
        step: lines after this step are dropped: they are of work that a resumed run does again.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self._path = workdir / METRICS_FILE
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; it needs a `step`. NaN and the infinities become null."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain) + "\n")


def read_metrics(workdir: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics; one that was cut short, or is not of a step or an epoch, is left out."""
    path = workdir / METRICS_FILE
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = parsed_json(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and line.get("kind") in ("step", "epoch") and type(line.get("step")) is int:
            # What was not finite was written as null.
            numbers = (value for name, value in line.items() if name != "kind" and value is not None)
            if all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
                yield line
