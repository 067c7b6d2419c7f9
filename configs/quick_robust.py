"""resnet20-quick-robust: the robust additions, Half-Huber ReLU and Lipschitz penalty, for two CPU cores.

python -m advx_jax.train --config=configs/quick_robust.py

Running time: 75 minutes for 12 epochs on 2 CPU cores that had other work too.
Expected: test accuracy 0.595, train loss 1.52, final ψ 12,400.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import add_robust_additions
from advx_jax.configs.quick_standard import get_config as quick_standard


def get_config() -> ConfigDict:
    """The published robust recipe on ResNet-20, with one rise and fall of the learning rate over few epochs."""
    config = quick_standard()
    config.name = "resnet20-quick-robust"
    add_robust_additions(config)
    config.epochs = 12
    # In few epochs ψ has few steps to grow in.
    config.penalty.rate = 0.06
    return config
