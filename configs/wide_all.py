"""resnet20x2-all-begun: robust additions and adversarial training on a ResNet-20 of twice the width, for one GPU.

python -m advx_jax.train --config=configs/wide_all.py

Running time: 25 epochs of 5.3 seconds on one H100, which two other trainings shared (4.4 minutes then).
Expected: test accuracy 0.666, train loss 1.50, final ψ 9,200. wide_all_longer.py goes on from here.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import add_robust_additions, published


def get_config() -> ConfigDict:
    """The published recipe with one rise and fall of the learning rate, and fewer steps of the attack."""
    config = published("resnet20x2-all-begun")
    add_robust_additions(config)
    config.epochs = 25
    config.batch_size = 256
    config.held_out = 2500
    # Shallower and wider than ResNet-44: 1.7 times its operations, in products of a width that processors like.
    config.architecture.update(stage_lengths=(3, 3, 3), stage_widths=(32, 64, 128))
    config.optimizer.update(learning_rate_per_128=0.15, warm_up_epochs=2.0, decay="linear", learning_rate_drops=())
    config.attack.update(kind="l2_min", eps=0.1, steps=3, attacked_probability=0.5)
    # In few epochs ψ has few steps to grow in.
    config.penalty.rate = 0.06
    config.compute_dtype = "tensorfloat32"
    return config
