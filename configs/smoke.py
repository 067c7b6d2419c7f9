"""Everything at once on the shipped sample: does the installation work?

python -m advx_jax.train --config=configs/smoke.py --workdir=smoke

Running time: 30 seconds on 2 CPU cores, half of it compiling, which a second run does without.
Expected: a loss that falls a little, a network.safetensors, and no accuracy to speak of: 192 images teach a tiny
network nothing that the 64 others could show.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import add_robust_additions, published


def get_config() -> ConfigDict:
    """A tiny network, three epochs of the sample, every ingredient of the paper."""
    config = published("tiny-smoke")
    add_robust_additions(config)
    config.data = "sample"
    config.epochs = 3
    # The last batch of 192 is a short one.
    config.batch_size = 80
    config.architecture.update(stage_lengths=(1, 1, 1), stage_widths=(8, 8, 16))
    config.optimizer.learning_rate_drops = (2,)
    config.attack.update(kind="l2_min", eps=0.1, attacked_probability=0.5)
    config.keeping.log_every = 1
    return config
