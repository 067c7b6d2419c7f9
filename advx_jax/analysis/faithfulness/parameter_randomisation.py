"""Model-parameter randomisation: an explanation of a network should not survive the loss of what it has learned.

From "Sanity checks for saliency maps" (Adebayo et al. 2018, arXiv 1810.03292), section 3: cascading, from the head.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import lax
from jaxtyping import Array, Float

from advx_jax.analysis.faithfulness.base import Cost, Method, Metric
from advx_jax.analysis.faithfulness.rank_correlation import Similarity, similarity
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.pytrees import as_pytree


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterRandomisation(Metric):
    """1/L · Σ_{l=1..L} sim( φ(x; θ), φ(x; θ with its last l modules randomised) ): low if φ depends on θ.

    To randomise a module is to put the values of each of its arrays into a random order: what was learned is lost, and
    the sizes of activations stay what they were. The same networks are used for all images.

    Attributes:
        similarity: "spearman", "pearson" or "cosine".
        absolute: of absolute values of the attributions, the paper's first choice.
        seed: of the random order.
        modules: names of the modules from the image to the head; each array belongs to the first that is a part of its
            path. None for the modules of a `Classifier` in the order of its network, and otherwise for the arrays'
            order in the model's pytree, in which those with a common path (a layer's kernel and bias) are a module.
    """

    higher_is_better = False
    takes_method = True
    name: str = "parameter_randomisation"
    similarity: Similarity = "spearman"
    absolute: bool = True
    seed: int = 0
    modules: tuple[str, ...] | None = None

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """An attribution for each module, and one for the network as it is."""
        del image_shape
        return Cost(0, len(set(self._modules_of_leaves(as_pytree(model))) - {None}) + 1)

    def check(self, model: Model, image_shape: tuple[int, ...], explained: Any) -> None:
        """Refuse a model whose numbers cannot be seen.

        Raises:
            UserError: see above; or no module has any.
        """
        super().check(model, image_shape, explained)
        self._modules_of_leaves(model)

    def randomised(self, model: Model, n_modules: int | Array) -> Model:
        """The model with its last `n_modules` modules randomised."""
        return self._partly(model, self._shuffled(model), n_modules)

    def similarities(
        self, model: Model, images: Images, targets: Labels, method: Method, keys: Keys
    ) -> Float[Array, "batch modules"]:
        """The similarity after each module, from the head to the image."""
        places = [place for place in self._modules_of_leaves(model) if place is not None]
        here = self._rows(method(model, images, targets, keys))
        # Outside of the loop: to shuffle all of a network's numbers takes as long as some of its gradients.
        shuffled = self._shuffled(model)

        def look(_: None, n_modules: Array) -> tuple[None, Array]:
            there = method(self._partly(model, shuffled, n_modules), images, targets, keys)
            return None, similarity(self.similarity, here, self._rows(there))

        return lax.scan(look, None, jnp.arange(1, max(places) + 2))[1].T

    def _shuffled(self, model: Model) -> list[Any]:
        """The model's leaves, those that belong to modules in a random order each."""
        leaves, places = jax.tree.leaves(model), self._modules_of_leaves(model)
        keys = jax.random.split(jax.random.key(self.seed), len(leaves))
        # Those of one size together: compiling a sort for each of some hundred arrays took over a minute.
        alike: dict[Any, list[int]] = {}
        for number, (leaf, place) in enumerate(zip(leaves, places, strict=True)):
            if place is not None:
                alike.setdefault((jnp.size(leaf), jnp.result_type(leaf)), []).append(number)
        for numbers in alike.values():
            rows = jnp.stack([jnp.ravel(leaves[number]) for number in numbers])
            shuffled = jax.vmap(jax.random.permutation)(keys[np.array(numbers)], rows)
            for number, row in zip(numbers, shuffled, strict=True):
                leaves[number] = row.reshape(jnp.shape(leaves[number]))
        return leaves

    def _partly(self, model: Model, shuffled: list[Any], n_modules: int | Array) -> Model:
        """The model with the leaves of its last `n_modules` modules shuffled."""
        leaves, structure = jax.tree.flatten(model)
        places = self._modules_of_leaves(model)
        count = 1 + max(place for place in places if place is not None)
        mixed = [
            leaf if place is None else jnp.where(count - place <= n_modules, other, leaf)
            for leaf, other, place in zip(leaves, shuffled, places, strict=True)
        ]
        found: Model = jax.tree.unflatten(structure, mixed)
        return found

    def measure(self, model: Model, images: Images, targets: Labels, explained: Method, keys: Keys) -> Values:
        """The mean over all modules."""
        return self.similarities(model, images, targets, explained, keys).mean(-1)

    def _rows(self, attributions: Array) -> Array:
        rows = attributions.reshape(len(attributions), -1)
        return jnp.abs(rows) if self.absolute else rows

    def _modules_of_leaves(self, model: Model) -> list[int | None]:
        """For each leaf of the model's pytree which module it belongs to, from the image to the head; None for none.

        Raises:
            UserError: the model has no numbers that can be seen, or no module has any.
        """
        paths = jax.tree_util.tree_flatten_with_path(model)[0]
        names = self.modules
        if names is None and isinstance(model, Classifier):
            names = _in_order_of_network(model)

        def owner_of(path: tuple[Any, ...], leaf: Any) -> Any:
            if not _can_be_shuffled(leaf):
                return None
            return _parent(path) if names is None else _first_of(names, path)

        owners = [owner_of(path, leaf) for path, leaf in paths]
        known: dict[Any, int] = {}
        for owner in owners if names is None else (name for name in names if name in owners):
            if owner is not None:
                known.setdefault(owner, len(known))
        if not known:
            raise UserError(
                "expected a model whose numbers are leaves of a pytree (a Classifier, from_linen, "
                f"jax.tree_util.Partial), got none{' in ' + ', '.join(names) if names else ''}"
            )
        return [None if owner is None else known[owner] for owner in owners]


def _can_be_shuffled(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.size(leaf) > 0


def _in_order_of_network(classifier: Classifier) -> tuple[str, ...]:
    """The names of the outermost modules in the order in which the network makes them, which is that of its layers."""
    names: list[str] = []

    def initialise(images: Array) -> None:
        variables = classifier.architecture.module().init(jax.random.key(0), images)
        names.extend(path[0] for path in traverse_util.flatten_dict(variables["params"]))

    jax.eval_shape(initialise, jax.ShapeDtypeStruct((1, *classifier.image_shape), "float32"))
    return tuple(dict.fromkeys(names))


def _key_name(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def _first_of(names: tuple[str, ...], path: tuple[Any, ...]) -> str | None:
    parts = {_key_name(key) for key in path}
    return next((name for name in names if name in parts), None)


def _parent(path: tuple[Any, ...]) -> tuple[str, ...]:
    """What arrays of one module have in common; those of a list are one each."""
    in_list = not path or isinstance(path[-1], jax.tree_util.SequenceKey | jax.tree_util.FlattenedIndexKey)
    return tuple(map(_key_name, path if in_list else path[:-1]))
