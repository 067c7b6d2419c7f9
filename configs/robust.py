"""resnet44-robust: the robust additions, Half-Huber ReLU and Lipschitz penalty.

python -m advx_jax.train --config=configs/robust.py

Running time: 200 epochs of 12 to 22 minutes on 2 CPU cores, by the processor, or of 5.9 seconds on one H100.
Expected: test accuracy near 0.676 (published 0.6758), train loss 1.48, final ψ near 34,000, attack ARA 0.0142,
BTR ARA 0.0395.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import add_robust_additions, published


def get_config() -> ConfigDict:
    """The published recipe."""
    config = published("resnet44-robust")
    add_robust_additions(config)
    return config
