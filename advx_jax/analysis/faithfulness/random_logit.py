"""Random-logit test: an explanation of one class should not be one of another as well.

From "When explanations lie: why many modified BP attributions fail" (Sixt, Granz and Landgraf 2020, arXiv 1912.09818),
section 4.3.
"""

import dataclasses

import jax
import jax.numpy as jnp

from advx_jax.analysis.faithfulness.base import Cost, Method, Metric
from advx_jax.analysis.faithfulness.rank_correlation import Similarity, similarity
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model, fold_in_all


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomLogit(Metric):
    """sim( φ(x, t), φ(x, t') ) for a class t' ≠ t drawn at random: low if the method tells classes apart.

    Attributes:
        similarity: "spearman", "pearson" or "cosine"; of signed attributions. (The paper's SSIM needs a picture.)
        absolute: of their absolute values instead.
    """

    higher_is_better = False
    takes_method = True
    name: str = "random_logit"
    similarity: Similarity = "spearman"
    absolute: bool = False

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """Two attributions."""
        del model, image_shape
        return Cost(0, 2)

    def drawn(self, keys: Keys, targets: Labels, n_classes: int) -> Labels:
        """Another class for each example."""
        drawn = jax.vmap(lambda key: jax.random.randint(key, (), 1, n_classes))(fold_in_all(keys, 0))
        return ((targets + drawn) % n_classes).astype(targets.dtype)

    def measure(self, model: Model, images: Images, targets: Labels, explained: Method, keys: Keys) -> Values:
        """The similarity."""
        others = self.drawn(keys, targets, jax.eval_shape(model, images).shape[-1])
        found = (explained(model, images, classes, keys) for classes in (targets, others))
        rows = [(jnp.abs(one) if self.absolute else one).reshape(len(images), -1) for one in found]
        return similarity(self.similarity, *rows)
