"""Made-up explanations for the tests of reports."""

import numpy as np

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.reports.explanation_tree import ExplainedImage


def explained_image(name: str = "0", label: int = 3, seed: int = 0, **fields) -> ExplainedImage:
    """An image of noise whose explanations towards classes 1 and 4 fell short; some values leave [0, 1]."""
    random = np.random.default_rng(seed)
    image = random.random((32, 32, 3), np.float32)
    changes = random.normal(0, 0.1, (10, 32, 32, 3)).astype(np.float32)
    logits = random.permutation(10).astype(np.float32) / 2
    confidences = np.exp(logits) / np.exp(logits).sum()
    rms = np.sqrt((changes**2).mean((1, 2, 3)))
    reached = np.ones(10, bool)
    rms[[1, 4]], reached[[1, 4]] = [0.0273, 0.0997], False
    second = int(np.argmax(np.where(np.arange(10) == label, -np.inf, logits)))
    record = ExplainedImage(
        name=name,
        label=label,
        label_is_given=True,
        class_names=CIFAR10_CLASSES,
        input=image,
        targets=np.arange(10),
        explanations=image + changes,
        confidences=confidences,
        logits=logits,
        rms=rms,
        first_ok=np.where(reached, 5, 35),
        reached=reached,
        second=second,
    )
    return record._replace(**fields)
