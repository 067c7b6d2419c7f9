"""Train on a given number of devices and write what came out; run by test_training_devices.

python tests/train_on_devices.py OUTPUT N_DEVICES [SETUP [COORDINATOR PROCESS]]
"""

import dataclasses
import sys

import jax

output, n_devices, setup = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", n_devices)
jax.config.update("jax_enable_x64", setup != "float32")
if len(sys.argv) > 4:
    jax.distributed.initialize(sys.argv[4], 2, int(sys.argv[5]))

import numpy as np
from flax import traverse_util
from recipes import PUBLISHED_RECIPES, published_recipe, tiny_recipe

from advx_jax.training.batches import make_plan
from advx_jax.training.parallel import on_all_devices, replicated
from advx_jax.training.state import initial_state, make_optimizer
from advx_jax.training.step import TrainingSet, make_step

# With batches of 12 on 4 devices, the last batch of 4 leaves one device partly and two wholly padded.
N_EXAMPLES = 40
# The tiny networks see small images, to be quick.
SIDE = 32 if setup == "float32" else 8
N_STEPS = {
    "float64": 20,
    "everything": 20,
    "everything_briefly": 8,
    "per_device": 8,
    "per_device_briefly": 4,
    "float32": 1,
}
# Each device for itself differs in the normalisation alone: the plainest recipe and the one with everything will do.
RECIPES = PUBLISHED_RECIPES
if setup == "per_device":
    RECIPES = ("standard", "all")
elif setup in ("everything", "everything_briefly", "per_device_briefly"):
    RECIPES = ("all",)


def recipe(name):
    if setup == "float32":
        return dataclasses.replace(published_recipe(name), batch_size=12)
    normalisation = "per_device" if setup.startswith("per_device") else "synchronised"
    # With half of the rate of the published batch of 512, which on these data neither stalls nor diverges.
    optimizer = dataclasses.replace(published_recipe(name).optimizer, learning_rate_per_128=0.5)
    return tiny_recipe(name, batch_norm=normalisation, optimizer=optimizer)


def differences_among_devices(tree):
    """Largest difference between any local device's copy and the first one's."""
    largest = 0.0
    for leaf in jax.tree.leaves(tree):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        largest = max(largest, *(float(np.abs(copy.astype(float) - copies[0]).max()) for copy in copies))
    return largest


rng = np.random.default_rng(0)
data = rng.integers(0, 256, (N_EXAMPLES, SIDE, SIDE, 3), np.uint8), rng.integers(0, 10, N_EXAMPLES).astype(np.int32)
found = {}
for name in RECIPES:
    chosen = recipe(name)
    plan = make_plan(chosen, N_EXAMPLES)
    optimizer = make_optimizer(chosen, plan.steps_per_epoch)
    state = initial_state(chosen, optimizer)
    if setup != "float32":
        floats = (state.params, state.batch_stats, state.constants, state.opt_state, state.integrator)
        params, batch_stats, constants, opt_state, integrator = jax.tree.map(
            lambda leaf: leaf.astype("float64") if leaf.dtype == "float32" else leaf, floats
        )
        state = state._replace(
            params=params, batch_stats=batch_stats, constants=constants, opt_state=opt_state, integrator=integrator
        )
    state, on_device = replicated(state), TrainingSet(*replicated(data))
    step = on_all_devices(make_step(chosen, optimizer))
    for index in range(N_STEPS[setup]):
        # Only one device asks, and only at the last step: all must hear of it.
        asked = np.zeros(jax.local_device_count(), bool)
        asked[-1] = index == N_STEPS[setup] - 1 and jax.process_index() == jax.process_count() - 1
        state, metrics, stopping = step(state, on_device, plan.rows(index), asked)
        found |= {f"{name}/metrics/{index}/{field}": value for field, value in metrics._asdict().items()}
        found[f"{name}/stopping/{index}"] = stopping
    found[f"{name}/spread"] = differences_among_devices((state, metrics))
    for part in ("params", "batch_stats"):
        flat = traverse_util.flatten_dict(getattr(state, part), sep="/")
        found |= {f"{name}/{part}/{leaf}": value for leaf, value in flat.items()}
if jax.process_index() == 0:
    np.savez(output, **{key: np.asarray(value) for key, value in found.items()})
