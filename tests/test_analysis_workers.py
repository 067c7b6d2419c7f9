"""Chunks of work on several lanes."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.analysis import workers
from advx_jax.analysis.segments import segment_lengths
from advx_jax.analysis.workers import Interrupted, lanes, pad, spread
from advx_jax.networks.pytrees import as_pytree


def logits_fn(images):
    return images


def test_padding_repeats_the_first_row():
    array = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(pad(array, 5), array[[0, 1, 2, 0, 0]])
    assert pad(array, 3) is array


def test_every_task_is_done_once_and_its_result_comes_with_it():
    results = dict(spread(logits_fn, range(20), lambda worker, task: task**2))
    assert results == {task: task**2 for task in range(20)}


def test_tasks_run_at_the_same_time_on_all_lanes():
    barrier = threading.Barrier(len(lanes()), timeout=10)
    assert len(list(spread(logits_fn, range(len(lanes())), lambda worker, task: barrier.wait()))) == len(lanes())


def test_an_error_in_a_task_reaches_the_caller():
    def work(worker, task):
        if task == 3:
            raise ValueError("task 3")
        return task

    with pytest.raises(ValueError, match="task 3"):
        list(spread(logits_fn, range(10), work))


def test_running_tasks_stop_when_nobody_listens_any_more(monkeypatch):
    monkeypatch.setattr(workers, "lanes", lambda: jax.devices()[:1] * 2)
    stopped = []
    running = threading.Event()

    def work(worker, task):
        if task == 0:
            running.wait(10)
            return 0
        try:
            running.set()
            while True:
                worker.call(lambda: jnp.zeros(()))
                time.sleep(0.01)
        except Interrupted:
            stopped.append(task)
            raise

    results = spread(logits_fn, range(2), work)
    assert next(results) == (0, 0)
    begin = time.monotonic()
    results.close()
    assert stopped == [1]
    assert time.monotonic() - begin < 5


def test_any_function_can_be_passed_through_jit():
    matrix = jnp.eye(3)
    plain = as_pytree(lambda images: images @ matrix)
    assert float(jax.jit(lambda f, x: f(x).sum())(plain, jnp.ones((2, 3)))) == 6
    partial = jax.tree_util.Partial(lambda m, images: images @ m, matrix)
    assert as_pytree(partial) is partial


@pytest.mark.parametrize("steps", [1, 2, 7, 35, 36, 37, 74, 100, 101, 449, 450, 1000])
def test_segments_add_up_and_have_few_lengths(steps):
    lengths = segment_lengths(steps)
    assert sum(lengths) == steps
    assert max(lengths) <= 36
    assert len(set(lengths)) <= 2
    if steps in (35, 450, 1000):
        assert len(set(lengths)) == 1


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_numbers_of_the_network_lie_on_the_workers_device(kind):
    variables = {"kernel": kind(np.arange(6, dtype=np.float32).reshape(2, 3)), "bias": kind(np.ones(3, np.float32))}
    model = jax.tree_util.Partial(lambda variables, images: images @ variables["kernel"] + variables["bias"], variables)
    ((_, (worker, logits)),) = spread(model, [0], lambda worker, task: (worker, worker.model(np.eye(2))))
    np.testing.assert_array_equal(logits, variables["kernel"] + variables["bias"])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(worker.model))
    assert all(leaf.devices() == {worker.device} for leaf in jax.tree.leaves(worker.model))


def test_several_devices_share_the_work(monkeypatch):
    """As on a machine with more lanes than the CPU gives: each lane appears, and results stay the same."""
    device = jax.devices()[0]
    monkeypatch.setattr(workers, "lanes", lambda: [device] * 5)
    assert dict(spread(logits_fn, range(7), lambda worker, task: -task)) == {task: -task for task in range(7)}
