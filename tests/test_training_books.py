"""The sums and checks of a run's metrics."""

import itertools
import math
import types

import jax.numpy as jnp
import pytest

from advx_jax.errors import UserError
from advx_jax.training import bookkeeping
from advx_jax.training.bookkeeping import Books, CheckpointClock
from advx_jax.training.checkpoints import Progress
from advx_jax.training.step import Metrics

MUST_BE_FINITE = {
    "class_loss": "class loss",
    "penalty": "penalty",
    "psi": "psi",
    "gradient_norm": "gradient norm",
}


class Listener:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def step(self, step, metrics):
        self.told.append((step, metrics))


def metrics_of(**changes):
    values = {
        "n_examples": jnp.int32(4),
        "class_loss": jnp.float32(1.5),
        "n_correct": jnp.int32(3),
        "penalty": jnp.float32(0.25),
        "psi": jnp.float32(220),
        "integrator": jnp.float32(2),
        "gradient_norm": jnp.float32(8),
    }
    return Metrics(**values | changes)


def enter(books, step, stopping=False, saving=False, **changes):
    books.enter(step, metrics_of(**changes), jnp.asarray([stopping, saving]))


@pytest.fixture
def kept():
    """Books, the sums that they keep, and what they tell."""
    progress, listener = Progress(), Listener()
    return Books(progress, listener), progress, listener


def test_sums_are_over_examples_and_not_over_batches(kept):
    books, progress, _ = kept
    enter(books, 1, n_examples=jnp.int32(8), class_loss=jnp.float32(2.0), n_correct=jnp.int32(5))
    enter(books, 2, n_examples=jnp.int32(2), class_loss=jnp.float32(0.5), n_correct=jnp.int32(1))
    books.read_all()
    assert (progress.loss_sum, progress.n_correct, progress.n_examples) == (8 * 2.0 + 2 * 0.5, 6, 10)
    # Counting the steps is the loop's affair.
    assert progress.step == 0


def test_sums_go_on_from_those_of_a_checkpoint():
    progress = Progress(step=7, loss_sum=10.0, n_correct=2, n_examples=5, best_accuracy=0.5, seconds=60.0)
    books = Books(progress, Listener())
    enter(books, 8)
    books.read_all()
    assert (progress.loss_sum, progress.n_correct, progress.n_examples) == (16.0, 5, 9)
    assert progress.seconds >= 60
    assert progress.best_accuracy == 0.5


def test_a_step_is_read_while_the_next_is_computed(kept):
    books, progress, listener = kept
    enter(books, 1)
    assert listener.told == []
    assert books.last is None
    enter(books, 2, class_loss=jnp.float32(1.0))
    assert [step for step, _ in listener.told] == [1]
    assert progress.n_examples == 4
    books.read_all()
    assert [step for step, _ in listener.told] == [1, 2]
    assert books.last.class_loss == 1.0
    # Nothing is read twice.
    books.read_all()
    assert progress.n_examples == 8
    assert len(listener.told) == 2


def test_listeners_get_plain_numbers(kept):
    books, _, listener = kept
    enter(books, 1)
    books.read_all()
    ((step, numbers),) = listener.told
    assert step == 1
    assert numbers._asdict() == {
        "n_examples": 4,
        "class_loss": 1.5,
        "n_correct": 3,
        "penalty": 0.25,
        "psi": 220.0,
        "integrator": 2.0,
        "gradient_norm": 8.0,
    }
    assert {type(number) for number in numbers} == {int, float}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", MUST_BE_FINITE)
def test_the_quantity_that_is_no_longer_finite_is_named_with_its_step(field, value, kept):
    books, progress, listener = kept
    enter(books, 41)
    enter(books, 42, **{field: jnp.float32(value)})
    with pytest.raises(UserError) as caught:
        enter(books, 43)
    message = str(caught.value)
    assert message.startswith(f"training stopped at step 42: {MUST_BE_FINITE[field]} is {value};")
    assert len(message.splitlines()) == 1
    # Neither the sums nor the listener have heard of the bad step.
    assert (progress.loss_sum, progress.n_examples) == (6.0, 4)
    assert [step for step, _ in listener.told] == [41]


def test_the_first_of_several_is_named(kept):
    books, _, _ = kept
    enter(books, 1, penalty=jnp.float32(math.nan), gradient_norm=jnp.float32(math.nan))
    with pytest.raises(UserError, match="step 1: penalty is nan"):
        books.read_all()


def test_once_agreed_to_stop_it_stays_so(kept):
    books, _, _ = kept
    enter(books, 1)
    books.read_all()
    assert books.stopping is False
    enter(books, 2, stopping=True)
    assert books.stopping is False  # not yet read
    enter(books, 3)
    assert books.stopping is True
    books.read_all()
    assert books.stopping is True


def steps_of_a_process(strikes_at, wishes):
    """The loop of one of several processes: yields what it wishes, then is sent what all have agreed on.

    Args:
        strikes_at: step before which the time of its clock is up.
        wishes: whether it is asked to stop, by the step.
    """
    books, clock = Books(Progress(), Listener()), CheckpointClock(1000.0, n_processes=2)
    step, saved = 0, []
    while not books.stopping:
        clock.strikes = lambda step=step: step >= strikes_at and not saved
        agreed = yield wishes(step), clock.strikes()
        step += 1
        enter(books, step, *agreed)
        if clock.is_due(books):
            books.read_all()
            clock.restart(books)
            saved.append(step)
    return step, saved


@pytest.mark.parametrize("stop_at", range(2, 8))
def test_processes_save_and_stop_at_the_same_step_though_their_clocks_differ(stop_at):
    processes = [steps_of_a_process(at, lambda step, at=at: step >= stop_at and at == 3) for at in (3, 5)]
    asked, left = [next(process) for process in processes], []
    for _ in range(20):
        agreed, asked = [any(wish) for wish in zip(*asked, strict=True)], []
        for process in processes:
            try:
                asked.append(process.send(agreed))
            except StopIteration as end:
                left.append(end.value)
        # Whoever goes on alone waits for ever for the one that has left.
        assert len(asked) in (0, len(processes))
        if not asked:
            break
    assert left[0] == left[1]
    assert left[0][1] == ([5] if stop_at > 2 else [])


def test_one_process_alone_saves_when_its_time_is_up():
    books = Books(Progress(), Listener())
    clock = CheckpointClock(0.0, n_processes=1)
    assert clock.is_due(books)
    assert not CheckpointClock(1000.0, n_processes=1).is_due(books)
    # What several have agreed on is for several.
    together = CheckpointClock(0.0, n_processes=2)
    assert not together.is_due(books)
    enter(books, 1, saving=True)
    enter(books, 2)
    assert together.is_due(books)
    together.restart(books)
    assert not together.is_due(books)


def test_a_new_epoch_has_new_sums_and_the_same_time_and_best(kept):
    books, progress, _ = kept
    progress.step, progress.best_accuracy, progress.seconds = 9, 0.75, 100.0
    enter(books, 9)
    books.read_all()
    seconds = progress.seconds
    books.close_epoch()
    assert progress == Progress(step=9, best_accuracy=0.75, seconds=seconds)
    enter(books, 10)
    books.read_all()
    assert progress.n_examples == 4


def test_evaluations_are_not_counted_as_training_time(monkeypatch):
    # The books look at the clock once at the start, once a step and once at the end of an epoch.
    ticks = itertools.chain([0.0, 2.0, 5.0, 1005.0, 1009.0])
    monkeypatch.setattr(bookkeeping, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    progress = Progress(seconds=10.0)
    books = Books(progress, Listener())
    enter(books, 1)
    enter(books, 2)
    books.read_all()
    assert progress.seconds == 15.0
    books.close_epoch()
    enter(books, 3)
    books.read_all()
    assert progress.seconds == 19.0
