"""Accuracy and loss of a network, with progress, as JSON."""

from typing import Any

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.soundness import check_fit
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.results_json import head
from advx_jax.runs.progress import progress

_FORMAT = 1


def report_accuracy(network: ResolvedNetwork, data: ImageSet, n_images: int) -> dict[str, Any]:
    """Classify the first `n_images` images.

    Returns:
        A head and `accuracy`, `loss` (mean cross-entropy), `correct`, `n_images`.

    Raises:
        UserError: network and images do not fit.
    """
    check_fit(network.classifier, data)
    images, labels = unit_images(data.images[:n_images]), data.labels[:n_images]
    with progress(n_images, "image", "evaluate") as update:
        predictions = predict(network.classifier, images, update)
    settings = {
        "model": network.provenance.name,
        "network_sha256": network.classifier.fingerprint(),
        "data": data.source,
        "n_images": n_images,
    }
    return head("evaluate", _FORMAT, settings) | {
        "accuracy": predictions.accuracy(labels),
        "loss": predictions.loss(labels),
        "correct": int((predictions.classes == labels).sum()),
        "n_images": n_images,
    }
