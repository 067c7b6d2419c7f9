"""resnet20-quick-robust-tuned: two more epochs for the network of quick_robust.py, towards a lower loss.

python -m advx_jax.train --config=configs/quick_robust.py
python -m advx_jax.train --config=configs/quick_robust_tuned.py

Running time: 12 minutes for 2 epochs on 2 CPU cores that had other work too.
Expected: test accuracy 0.604, train loss 1.45, final ψ 9,100.
"""

from ml_collections import ConfigDict

from advx_jax.configs.quick_robust import get_config as quick_robust


def get_config() -> ConfigDict:
    """The quick robust recipe, from its own end on."""
    config = quick_robust()
    config.name = "resnet20-quick-robust-tuned"
    config.init_from = "runs/resnet20-quick-robust"
    config.epochs = 2
    config.optimizer.update(learning_rate_per_128=0.05, warm_up_epochs=0.0)
    # Batches of 128 hold training at some 0.02 above the target, and the published networks ended at 1.48: below it,
    # the controller gives a little of the penalty back for accuracy.
    config.penalty.target_loss = 1.4
    return config
