"""As how many devices a CPU trains."""

import json
import subprocess
import sys

import pytest
from processes import quick_environment

from advx_jax.configs.published import published
from advx_jax.training.cpu_devices import devices_for
from advx_jax.training.recipe import recipe_from_config


@pytest.mark.parametrize(
    ("cores", "batch_size", "batch_norm", "n_devices"),
    [
        (1, 128, "synchronised", 1),
        (2, 128, "synchronised", 2),
        (2, 512, "synchronised", 2),
        (3, 128, "synchronised", 2),
        (3, 96, "synchronised", 3),
        (64, 128, "synchronised", 4),
        (64, 512, "synchronised", 16),
        (2, 127, "synchronised", 1),
        (2, 16, "synchronised", 1),
        (2, 128, "per_device", 1),
    ],
)
def test_cores_share_the_batch_equally_if_it_is_large_enough(cores, batch_size, batch_norm, n_devices):
    config = published("any")
    config.batch_size, config.batch_norm = batch_size, batch_norm
    assert devices_for(recipe_from_config(config.to_dict()), cores) == n_devices


# Counts what JAX shows after the choice for two cores; lanes agree or not as the first argument says.
SHOWN = """
import json, sys
import advx_jax
from advx_jax.configs.published import published
from advx_jax.training import cpu_devices
from advx_jax.training.recipe import recipe_from_config

agree = json.loads(sys.argv[1])
if agree is not None:
    cpu_devices.lanes_agree = lambda devices: agree
cpu_devices.processor_cores = lambda: 2
cpu_devices.share_among_cores(recipe_from_config(published("any").to_dict()))
import jax
import jax.numpy as jnp
print(jax.device_count(), float(jnp.ones(3).sum()))
"""


@pytest.mark.parametrize(
    ("agree", "environment", "n_devices"),
    [
        (None, {}, 2),
        (False, {}, 1),
        (True, {"JAX_NUM_CPU_DEVICES": "1"}, 1),
        (True, {"JAX_NUM_CPU_DEVICES": "3"}, 3),
        (True, {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4),
    ],
)
def test_two_cores_are_two_devices_unless_asked_otherwise_or_wrong(agree, environment, n_devices, tmp_path):
    base = {k: v for k, v in quick_environment(tmp_path).items() if k != "JAX_NUM_CPU_DEVICES"}
    if "XLA_FLAGS" in environment:
        environment = {"XLA_FLAGS": f"{base['XLA_FLAGS']} {environment['XLA_FLAGS']}"}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN, json.dumps(agree)],
        env=base | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == [str(n_devices), "3.0"], done.stderr
    warned = [line for line in done.stderr.splitlines() if "one device trains instead" in line]
    assert len(warned) == (agree is False)
