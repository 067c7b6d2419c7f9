"""A training run from a config to its results: claim the workdir, train, measure, tell."""

import contextlib
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from advx_jax.attacks import Published
from advx_jax.errors import UserError
from advx_jax.files import check_output_folder
from advx_jax.messages import one_line, say_once
from advx_jax.networks.registry import WORKDIR_NETWORK, ResolvedNetwork, resolve_network
from advx_jax.reports.training_record import CONFIG_FILE, DEVICES, claim_workdir, is_begun, read_metrics, workdir_held
from advx_jax.reports.training_watch import watching
from advx_jax.runs.ara import RobustnessAreas
from advx_jax.runs.measurement import measure
from advx_jax.training.data_facts import facts_of
from advx_jax.training.fit import check_fit, check_target, what_to_know
from advx_jax.training.loop import Data, export_checkpoint, train
from advx_jax.training.recipe import Recipe, recipe_from_config
from advx_jax.training.start import check_start
from advx_jax.training.stopping import stop_on_signals


def report_training(config: Mapping[str, Any], data: Data, workdir: Path) -> str:
    """Train by a config, going on from what the workdir holds; measure the trained network.

    Returns:
        What came out, or where training was stopped.

    Raises:
        UserError: the config is wrong, is not that of the run in the workdir, another process trains there, or
            training failed.
        KeyboardInterrupt: Ctrl-C; the checkpoint is written.
    """
    recipe, start = _recipe_and_start(config, data)
    if begins := not is_begun(workdir):
        check_target(recipe)
    with contextlib.ExitStack() as context:
        if jax.process_index() == 0:
            check_output_folder(workdir)
            context.enter_context(workdir_held(workdir))
            fingerprints = _fingerprints(data, start) | _devices(recipe)
            claim_workdir(workdir, config, fingerprints, recipe.facts, replace_unbegun=True)
            if begins:
                for line in what_to_know(recipe, start and start[:2]):
                    say_once(one_line(line))
        return _train(recipe, data, workdir, start)


def _train(recipe: Recipe, data: Data, workdir: Path, start: ResolvedNetwork | None) -> str:
    with stop_on_signals() as stop, watching(recipe, workdir) as watcher:
        finished = train(recipe, data, workdir, watcher, stop, start and start[:2])
    if jax.process_index() > 0:
        return f"process {jax.process_index()} is done"
    if not finished:
        if stop.signal is signal.SIGINT:
            raise KeyboardInterrupt
        return f"asked to stop: a checkpoint is in {workdir}; the same command goes on from it"
    verdict = f"{recipe.name} after {recipe.epochs} epochs: network: {workdir / WORKDIR_NETWORK}"
    for line in read_metrics(workdir):
        names = ("test_accuracy", "test_loss", "train_loss")
        if line["kind"] == "epoch" and line.get("epoch") == recipe.epochs:
            numbers = [f"{name.replace('_', ' ')} {line[name]:.4f}" for name in names if line.get(name) is not None]
            verdict += f"\n{', '.join(numbers)}"
    if recipe.keeping.ara_images:
        network = resolve_network(str(workdir))
        n_images = min(recipe.keeping.ara_images, len(data.test))
        areas = RobustnessAreas(network, data.test, n_images, Published(), workdir / "ara")
        verdict += f"\n{measure(areas, overwrite=True).summary}"
    return verdict


def export_training(config: Mapping[str, Any], data: Data, workdir: Path) -> str:
    """Write the network of the workdir's last checkpoint, without training; also while another process trains.

    Raises:
        UserError: there is no checkpoint, or it is of another config.
    """
    recipe, start = _recipe_and_start(config, data)
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(f"expected the workdir of a training run, got {workdir} without {CONFIG_FILE}")
    claim_workdir(workdir, config, _fingerprints(data, start), recipe.facts)
    step = export_checkpoint(recipe, len(data.train), workdir, start and start[:2])
    if not step:
        raise UserError(f"expected a checkpoint in {workdir}, got none")
    return f"{recipe.name} after {step} steps: {workdir / WORKDIR_NETWORK}"


def _recipe_and_start(config: Mapping[str, Any], data: Data) -> tuple[Recipe, ResolvedNetwork | None]:
    recipe = recipe_from_config(config, facts_of(data.train))
    # Reading a network may take a download; what is wrong without it is told before.
    check_fit(recipe, data)
    if not recipe.init_from:
        return recipe, None
    start = resolve_network(recipe.init_from)
    check_start(recipe, start.classifier)
    return recipe, start


def _fingerprints(data: Data, start: ResolvedNetwork | None) -> dict[str, str | None]:
    return {
        "training images": data.train.fingerprint,
        "first network": start.classifier.fingerprint() if start else None,
    }


def _devices(recipe: Recipe) -> dict[str, str | None]:
    """How many devices there are, where the result depends on it."""
    return {DEVICES: str(jax.device_count())} if recipe.batch_norm == "per_device" else {}
