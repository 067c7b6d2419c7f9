"""resnet44-all: robust additions and adversarial training with the minimum-norm (L2,min) attack, half-half.

python -m advx_jax.train --config=configs/all.py

Running time: 200 epochs of 35 to 67 minutes on 2 CPU cores, by the processor, or of 21 seconds on one H100.
Expected: test accuracy near 0.679 (published 0.6790), train loss 1.48, final ψ near 14,000, attack ARA 0.0188,
BTR ARA 0.0414.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import add_robust_additions, published


def get_config() -> ConfigDict:
    """The published recipe."""
    config = published("resnet44-all")
    add_robust_additions(config)
    config.attack.update(kind="l2_min", eps=0.1, attacked_probability=0.5)
    return config
