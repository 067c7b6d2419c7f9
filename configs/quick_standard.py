"""resnet20-quick-standard: nothing special, for two CPU cores.

python -m advx_jax.train --config=configs/quick_standard.py

Running time: 22 minutes for 8 epochs on 2 CPU cores that had other work too.
Expected: test accuracy 0.857, train loss 0.38.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import published


def get_config() -> ConfigDict:
    """The published recipe on ResNet-20, with one rise and fall of the learning rate over few epochs."""
    config = published("resnet20-quick-standard")
    config.epochs = 8
    config.batch_size = 128
    config.held_out = 5000
    config.architecture.stage_lengths = (3, 3, 3)
    config.optimizer.update(learning_rate_per_128=0.2, warm_up_epochs=2.0, decay="linear")
    return config
