"""resnet8-digits: a small network for small grey digits, which are drawn when they are needed.

python -m advx_jax.train --config=configs/digits.py

Running time: a minute on 2 CPU cores.
Expected: test accuracy above 0.99.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import published


def get_config() -> ConfigDict:
    """Few epochs with adversarial training; what is peculiar to CIFAR-10 comes from the data instead."""
    config = published("resnet8-digits")
    config.data = "advx_jax.data.digits:digits"
    config.epochs = 4
    config.batch_size = 32
    config.architecture.update(stage_lengths=(1, 1, 1), stage_widths=(8, 16, 32))
    config.optimizer.update(learning_rate_per_128=0.4, warm_up_epochs=0.5, decay="cosine", learning_rate_drops=())
    # A digit in a mirror is another sign.
    config.augmentation.update(padding=2, flip_probability=0.0)
    config.attack.update(kind="l2", eps=0.03, steps=2, attacked_probability=0.5)
    return config
