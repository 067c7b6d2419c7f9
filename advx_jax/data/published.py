"""What the published CIFAR-10 is, whatever way it came."""

from typing import NamedTuple

from advx_jax.data.image_set import ImageSet, Split


class PublishedSplit(NamedTuple):
    """Size and content of one split.

    Attributes:
        n_images: how many images it has.
        fingerprint: `ImageSet.fingerprint` of them, in the original order.
    """

    n_images: int
    fingerprint: str


# On the test set with this fingerprint the published networks have exactly their published accuracies
# (docs/method.md, Published networks).
PUBLISHED: dict[Split, PublishedSplit] = {
    "train": PublishedSplit(50_000, "67e12c2a5906880a4fe5595fe6d768185ad7ca587f35d3a7ece3c3b8b85035d2"),
    "test": PublishedSplit(10_000, "e54a434ec35094516eacbaac0f2f9550358d985e9d1f71b47d41d333c15ba304"),
}


def is_published(images: ImageSet, split: Split) -> bool:
    """Tell whether these are the published images and labels, all of them, in the original order."""
    # The size first: it spares the reading of all bytes.
    return len(images) == PUBLISHED[split].n_images and images.fingerprint == PUBLISHED[split].fingerprint
