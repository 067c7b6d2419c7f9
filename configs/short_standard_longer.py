"""resnet44-short-standard: a second rise and fall of the learning rate for the network of short_standard.py.

python -m advx_jax.train --config=configs/short_standard.py
python -m advx_jax.train --config=configs/short_standard_longer.py

Running time: 24 epochs in 4.9 hours on 2 CPU cores.
Expected: test accuracy 0.925, train loss 0.088.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import published


def get_config() -> ConfigDict:
    """The recipe of short_standard.py with smaller batches, in true float32, on all training images."""
    config = published("resnet44-short-standard")
    config.init_from = "runs/resnet44-short-standard-begun"
    config.epochs = 24
    config.batch_size = 128
    config.optimizer.update(learning_rate_per_128=0.1, warm_up_epochs=1.0, decay="linear", learning_rate_drops=())
    config.optimizer.weight_decay = 5e-4
    return config
