"""Adversarial explanations and measured robustness for image classifiers, in JAX/Flax.

The method is that of "Adversarial Explanations for Understanding Image Classification
Decisions and Improved Neural Network Robustness" (Woods, Chen, Teuscher 2019, arXiv 1906.02896).

Rooms, each importing only from those below it:

    reports/    what a person looks at: picture trees, the HTML gallery, curves, JSON
    training/   state, step, Lipschitz penalty, loop, checkpoints
    analysis/   explanations, accuracy-robustness area, accuracy
    attacks/    the attack loop and the attacks built on it
    networks/   Half-Huber ReLU, ResNet, the Classifier and its file format
    data/       CIFAR-10 from wherever it is
"""

from advx_jax import _runtime

__version__ = "0.1.0"

_runtime.switch_off_fusion()
