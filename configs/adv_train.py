"""resnet44-adv-train: adversarial training with the bounded (L2) attack in training mode.

python -m advx_jax.train --config=configs/adv_train.py

Running time: 200 epochs of 29 to 54 minutes on 2 CPU cores, by the processor, or of 28 seconds on one H100.
Expected: test accuracy near 0.864 (published 0.8643), train loss 0.53, attack ARA 0.0100, BTR ARA 0.0157.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import published


def get_config() -> ConfigDict:
    """The published recipe."""
    config = published("resnet44-adv-train")
    config.attack.kind = "l2"
    return config
