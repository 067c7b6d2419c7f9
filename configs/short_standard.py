"""resnet44-short-standard-begun: nothing special, in few epochs.

python -m advx_jax.train --config=configs/short_standard.py

Running time: 25 epochs of 3.5 seconds on one H100 (1.7 minutes while another training shared it).
Expected: test accuracy 0.916, train loss 0.123. short_standard_longer.py goes on from here.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import published


def get_config() -> ConfigDict:
    """The published recipe with one rise and fall of the learning rate over few epochs."""
    config = published("resnet44-short-standard-begun")
    config.epochs = 25
    config.batch_size = 256
    config.held_out = 2500
    config.optimizer.update(learning_rate_per_128=0.1, warm_up_epochs=3.0, decay="linear", learning_rate_drops=())
    # With a fifth of it, and more epochs (30), the network learned its images by heart: 0.909, train loss 0.073.
    config.optimizer.weight_decay = 5e-4
    config.compute_dtype = "tensorfloat32"
    return config
