"""Put the network of a finished training run into prebuilt/, with an entry in the manifest.

    python -m benchmarks.ship_network --workdir=runs/quick_robust --config=configs/quick_robust.py --commit=816bc3c \
        --training='robust additions, 12 epochs'

The final network ships, not the best of some epochs. Then `python -m benchmarks.measure_networks`.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.networks.files import SUFFIX, architecture_fields
from advx_jax.networks.registry import WORKDIR_NETWORK, resolve_network
from advx_jax.reports.results_json import read_json
from advx_jax.reports.training_record import CONFIG_FILE, read_metrics
from benchmarks.measured import PREBUILT, epochs_of, read_manifest, write_manifest

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of the finished run.", required=True)
_CONFIG = flags.DEFINE_string("config", None, "The recipe's file, from the project's root.", required=True)
_COMMIT = flags.DEFINE_string("commit", None, "The commit that the run was made with.", required=True)
_TRAINING = flags.DEFINE_string("training", None, "What it was trained with, in the table's words.", required=True)


@command()
def main(arguments: list[str]) -> None:
    """Copy the network and write its entry."""
    no_arguments(arguments)
    workdir = Path(_WORKDIR.value)
    entry = manifest_entry(workdir, _CONFIG.value, _COMMIT.value, _TRAINING.value)
    content = read_manifest()
    name = str(resolve_network(str(workdir)).provenance.name)
    with atomic_write(PREBUILT / entry["file"]) as temporary:
        shutil.copyfile(workdir / WORKDIR_NETWORK, temporary)
    content["networks"][name] = entry
    write_manifest(content)
    print(f"{name}: {PREBUILT / entry['file']}, {json.dumps(entry['trained'])}")


def manifest_entry(workdir: Path, config: str, commit: str, training: str) -> dict[str, Any]:
    """What the manifest tells of a network, from the record of its training.

    Args:
        workdir: of the finished run.
        config: file of the recipe.
        commit: that the run was made with.
        training: in the words of the README's table.

    Raises:
        UserError: the run is not finished.
    """
    network = resolve_network(str(workdir))
    record = read_json(workdir / CONFIG_FILE)
    epochs = [line for line in read_metrics(workdir) if line["kind"] == "epoch"]
    if len(epochs) != record["config"]["epochs"]:
        raise UserError(f"expected {record['config']['epochs']} epochs in {workdir}, got {len(epochs)}")
    last, device = epochs[-1], record["environment"]["device"]
    file = f"{network.provenance.name}{SUFFIX}"
    trained: dict[str, Any] = {
        "config": config,
        "commit": commit,
        "epochs": len(epochs),
        "hours": round(last["seconds"] / 3600, 2),
        "device": f"{device['count']} × {device['kind']}",
        "train_loss": round(last["train_loss"], 4),
    }
    if first := record["config"]["init_from"]:
        trained |= {"starts_from": resolve_network(first).provenance.name, "epochs_before": _epochs_before(first)}
    if network.provenance.psi_integrator is not None:
        trained["final_psi"] = round(last["psi"])
    if "held_out_accuracy" in last:
        trained["held_out_accuracy"] = last["held_out_accuracy"]
    return {
        "file": file,
        "sha256": hashlib.sha256((workdir / WORKDIR_NETWORK).read_bytes()).hexdigest(),
        "licence": "MIT",
        "architecture": architecture_fields(network.classifier.architecture),
        "training": training,
        "trained": trained,
    }


def _epochs_before(network: str) -> list[int]:
    """Epochs of the runs that a network comes from, the first one first.

    Args:
        network: as `config.init_from` names it; a workdir, or else in the manifest.
    """
    record = Path(network) / CONFIG_FILE
    if record.exists():
        config = read_json(record)["config"]
        return [*(_epochs_before(config["init_from"]) if config["init_from"] else []), config["epochs"]]
    networks = read_manifest()["networks"]
    if network not in networks:
        raise UserError(f"expected a workdir or a network of the manifest to start from, got {network}")
    return epochs_of(networks[network])


if __name__ == "__main__":
    main()
