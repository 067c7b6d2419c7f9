"""own-images: ResNet-20 for a folder of your own images, with adversarial training.

python -m advx_jax.train --config=configs/own_images.py --config.data=photos

The folder holds one folder for each class, called like it, or `train` and `test` above those; without them, every
fifth image is kept for testing. `--config.data` takes everything that `--data` of the other commands takes.

Running time: 9 images a second on 2 CPU cores that had much other work too; not measured on a GPU.
Expected: depends on the images.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import published


def get_config() -> ConfigDict:
    """Adversarial training is what makes explanations show something; `--config.attack.kind=none` does without."""
    config = published("own-images")
    config.data = "photos"
    # Photographs come in many sizes.
    config.image_size = 64
    config.epochs = 30
    config.batch_size = 64
    # ResNet-20.
    config.architecture.stage_lengths = (3, 3, 3)
    config.optimizer.update(warm_up_epochs=0.5, decay="cosine", learning_rate_drops=())
    # Digits, letters and signs are others in a mirror: --config.augmentation.flip_probability=0.
    config.attack.update(kind="l2", eps=0.01, steps=3, attacked_probability=0.5)
    return config
