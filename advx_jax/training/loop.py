"""The training loop: from a recipe and images to a trained network in a workdir."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from advx_jax.data.image_set import ImageSet
from advx_jax.networks.registry import WORKDIR_NETWORK
from advx_jax.training.batches import Plan, hold_out, make_plan
from advx_jax.training.bookkeeping import Books, CheckpointClock, StepListener
from advx_jax.training.checkpoints import Checkpoints, Progress, check_room
from advx_jax.training.evaluation import Evaluation, evaluate
from advx_jax.training.export import BEST_NETWORK, export_network
from advx_jax.training.kept_memory import KeptMemory
from advx_jax.training.parallel import on_all_devices, replicated
from advx_jax.training.recipe import Recipe
from advx_jax.training.start import Start
from advx_jax.training.state import classifier_of, initial_state, make_optimizer
from advx_jax.training.step import TrainingSet, make_step
from advx_jax.training.stopping import StopRequest


class EpochSummary(NamedTuple):
    """What is known at the end of an epoch.

    Attributes:
        epoch: counted from 1.
        step: steps made so far.
        train_loss: mean class loss over the epoch's examples, in training mode, attacked as they were.
        train_accuracy: fraction of them classified right.
        integrator: r at the end.
        psi: ψ of the last step.
        test: evaluation on the test images.
        held_out: evaluation on the images held out of training, if there are any.
        seconds: spent training, over all calls.
    """

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    integrator: float
    psi: float
    test: Evaluation
    held_out: Evaluation | None
    seconds: float


@runtime_checkable
class Watcher(StepListener, Protocol):
    """Somebody who is told how training goes."""

    def begin(self, plan: Plan, progress: Progress) -> None:
        """Training goes on from `progress`; its step is 0 for a new run."""

    def epoch(self, summary: EpochSummary) -> None:
        """An epoch has ended."""


class Data(NamedTuple):
    """Images to train on and to test with."""

    train: ImageSet
    test: ImageSet


def train(
    recipe: Recipe, data: Data, workdir: Path, watcher: Watcher, stop: StopRequest, start: Start | None = None
) -> bool:
    """Train to the end of the recipe, going on from the workdir's last checkpoint.

    At the end the network is written to the workdir.

    Args:
        recipe: what to train.
        data: all training images and the test images.
        workdir: for checkpoints and the network.
        watcher: is told how it goes.
        stop: ends training at the next step, on all processes at once, with a checkpoint.
        start: network to begin with, where there is no checkpoint; a fresh one if None.

    Returns:
        Whether training came to its end.

    Raises:
        UserError: the workdir cannot be used, the recipe does not fit the devices or the data, or a
            loss is no longer finite; the last good checkpoint stays.
    """
    training, held_out = hold_out(data.train, recipe.held_out, recipe.seed)
    plan = make_plan(recipe, len(training))
    optimizer = make_optimizer(recipe, plan.steps_per_epoch)
    state = initial_state(recipe, optimizer, start)
    passes_before = start[1].batches_tracked if start else 0
    if jax.process_index() == 0:
        check_room(workdir, state, recipe.keeping.n_checkpoints)
    with Checkpoints(workdir, recipe.keeping.n_checkpoints) as checkpoints:
        state, progress = checkpoints.restore(state) or (state, Progress())
        watcher.begin(plan, progress)
        books = Books(progress, watcher)
        step = on_all_devices(make_step(recipe, optimizer))
        on_device = TrainingSet(*replicated((training.images, training.labels.astype(np.int32))))
        state = replicated(state)
        clock, kept_memory = CheckpointClock(recipe.keeping.checkpoint_minutes, jax.process_count()), KeptMemory()
        while progress.step < plan.n_steps and not books.stopping:
            asked = np.tile([stop.signal is not None, clock.strikes()], (jax.local_device_count(), 1))
            state, metrics, agreed = step(state, on_device, plan.rows(progress.step), asked)
            progress.step += 1
            books.enter(progress.step, metrics, agreed)
            kept_memory.look()
            if ends_epoch := progress.step % plan.steps_per_epoch == 0:
                books.read_all()
                classifier = jax.device_get(classifier_of(state, recipe))
                chosen_by = evaluate(classifier, held_out) if held_out else None
                if chosen_by and chosen_by.accuracy > progress.best_accuracy:
                    progress.best_accuracy = chosen_by.accuracy
                    if jax.process_index() == 0:
                        export_network(workdir / BEST_NETWORK, recipe, state, passes_before)
                watcher.epoch(_summary(plan, progress, books, evaluate(classifier, data.test), chosen_by))
                books.close_epoch()
            if ends_epoch or clock.is_due(books):
                books.read_all()
                checkpoints.save(state, progress)
                clock.restart(books)
        books.read_all()
        checkpoints.save(state, progress)
        finished = progress.step == plan.n_steps
        if finished and jax.process_index() == 0:
            export_network(workdir / WORKDIR_NETWORK, recipe, state, passes_before)
    return finished


def export_checkpoint(recipe: Recipe, n_train: int, workdir: Path, start: Start | None = None) -> int:
    """Write the network of the workdir's last checkpoint beside it, without training.

    Args:
        recipe: that the run was made with.
        n_train: how many training images there are, the held-out ones included.
        workdir: of the run.
        start: network that the run began with, if it was not a fresh one.

    Returns:
        The number of steps that the network was trained for; 0 if there is no checkpoint.
    """
    plan = make_plan(recipe, n_train - recipe.held_out)
    state = initial_state(recipe, make_optimizer(recipe, plan.steps_per_epoch), start)
    with Checkpoints(workdir, recipe.keeping.n_checkpoints) as checkpoints:
        restored = checkpoints.restore(state)
    if restored is None:
        return 0
    passes_before = start[1].batches_tracked if start else 0
    export_network(workdir / WORKDIR_NETWORK, recipe, restored.state, passes_before)
    return restored.progress.step


def _summary(
    plan: Plan, progress: Progress, books: Books, test: Evaluation, held_out: Evaluation | None
) -> EpochSummary:
    last = books.last
    if last is None:
        raise RuntimeError("an epoch ended without a step")
    return EpochSummary(
        epoch=progress.step // plan.steps_per_epoch,
        step=progress.step,
        train_loss=progress.loss_sum / progress.n_examples,
        train_accuracy=progress.n_correct / progress.n_examples,
        integrator=last.integrator,
        psi=last.psi,
        test=test,
        held_out=held_out,
        seconds=progress.seconds,
    )
