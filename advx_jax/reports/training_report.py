"""A training run from a config to its results: claim the workdir, train, measure, tell."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from advx_jax.analysis.robustness_area import PUBLISHED_SETTINGS
from advx_jax.errors import UserError
from advx_jax.networks.registry import WORKDIR_NETWORK, ResolvedNetwork, resolve_network
from advx_jax.reports.robustness_report import report_robustness
from advx_jax.reports.training_record import claim_workdir, read_metrics
from advx_jax.reports.training_watch import watching
from advx_jax.training.loop import Data, export_checkpoint, train
from advx_jax.training.recipe import Recipe, recipe_from_config
from advx_jax.training.stopping import stop_on_signals


def report_training(config: Mapping[str, Any], data: Data, workdir: Path) -> str:
    """Train by a config, going on from what the workdir holds; measure the trained network.

    Returns:
        What came out, or where training was stopped.

    Raises:
        UserError: the config is wrong, is not that of the run in the workdir, or training failed.
        KeyboardInterrupt: Ctrl-C; the checkpoint is written.
    """
    recipe, start = _prepare(config, data, workdir)
    with stop_on_signals() as stop, watching(recipe, workdir) as watcher:
        finished = train(recipe, data, workdir, watcher, stop, start and start[:2])
    if jax.process_index() > 0:
        return f"process {jax.process_index()} is done"
    if not finished:
        if stop.signal is signal.SIGINT:
            raise KeyboardInterrupt
        return f"asked to stop: a checkpoint is in {workdir}; the same command goes on from it"
    last = [line for line in read_metrics(workdir) if line["kind"] == "epoch"][-1]
    verdict = (
        f"{recipe.name} after {recipe.epochs} epochs: test accuracy {last['test_accuracy']:.4f}, "
        f"test loss {last['test_loss']:.4f}, train loss {last['train_loss']:.4f}\n"
        f"network: {workdir / WORKDIR_NETWORK}"
    )
    if recipe.keeping.ara_images:
        network = resolve_network(str(workdir))
        n_images = min(recipe.keeping.ara_images, len(data.test))
        verdict += "\n" + report_robustness(network, data.test, n_images, PUBLISHED_SETTINGS, workdir / "ara", True)
    return verdict


def export_training(config: Mapping[str, Any], data: Data, workdir: Path) -> str:
    """Write the network of the workdir's last checkpoint, without training.

    Raises:
        UserError: there is no checkpoint, or it is of another config.
    """
    recipe, start = _prepare(config, data, workdir)
    step = export_checkpoint(recipe, len(data.train), workdir, start and start[:2])
    if not step:
        raise UserError(f"expected a checkpoint in {workdir}, got none")
    return f"{recipe.name} after {step} steps: {workdir / WORKDIR_NETWORK}"


def _prepare(config: Mapping[str, Any], data: Data, workdir: Path) -> tuple[Recipe, ResolvedNetwork | None]:
    recipe = recipe_from_config(config)
    start = resolve_network(recipe.init_from) if recipe.init_from else None
    fingerprints = {
        "training images": data.train.fingerprint,
        "first network": start.classifier.fingerprint() if start else None,
    }
    if jax.process_index() == 0:
        claim_workdir(workdir, config, fingerprints)
    return recipe, start
