"""The contract of all attacks: what they are asked, how they run, and what they answer.

An attack is a frozen dataclass and a JAX pytree: numbers such as eps are leaves, so that other values need no
compilation; names and counts are static. It runs step by step, `init`, then `step` as often as `n_steps` says, then
`result`, or all of it at once by a call. All of these are pure functions, under `jit`, `vmap` and `scan` as well.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Key

from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Logits, Mask, Values
from advx_jax.attacks.checks import ImagesLike, LabelsLike, check_settings, checked, with_settings
from advx_jax.attacks.criteria import Criterion, Misclassified
from advx_jax.attacks.norms import per_example
from advx_jax.errors import UserError
from advx_jax.importing import code_settings
from advx_jax.messages import size_in_words
from advx_jax.networks.pytrees import as_pytree
from advx_jax.networks.random_classifier import at_some_draw

_Same = TypeVar("_Same", bound="Attack")

Model = Callable[[Images], Logits]
"""Any function from images to logits. If it is a pytree, its arrays are arguments of the compiled code."""

State = Any
"""What an attack knows between two steps; each attack has a type of its own."""

Number = float | Array
"""A setting: a number outside of compiled code, traced inside it."""


class AttackResult(NamedTuple):
    """What an attack found, per example; the same for all attacks.

    Attributes:
        adversarial: an image that the model was SEEN to put over the boundary; the input itself where there is none.
        success: whether there is one. Beyond rounding, so that it holds when looked at again in another batch; an
            input that is over the boundary to begin with is its own adversarial image.
        norm: size of the change in the attack's own norm; infinite where there is none.
        rms: root mean square of the change over all values of the image; infinite where there is none.
        first_success: evaluations of the model before the first success; all that were made if there was none.
        evaluations: how often the model was evaluated on the way, mostly with its gradient.
        finite: no logit was NaN or infinite where that decides; otherwise the attack may have lost its way.
    """

    adversarial: Images
    success: Mask
    norm: Values
    rms: Values
    first_success: Counts
    evaluations: Counts
    finite: Mask

    def __repr__(self) -> str:
        # Inside compiled code, and where JAX puts other things in their place, fields have no values.
        arrays = all(isinstance(field, np.ndarray | jax.Array) for field in self)
        if not arrays or any(isinstance(field, jax.core.Tracer) for field in self):
            return f"AttackResult({', '.join(f'{name}={value}' for name, value in self._asdict().items())})"
        success, finite = np.asarray(self.success), np.asarray(self.finite)
        runs, shape = success.shape, self.adversarial.shape[success.ndim :]
        said = [f"{size_in_words(runs)} images of {size_in_words(shape)}", f"success on {success.sum()}"]
        if success.any():
            norm, rms = (np.median(np.asarray(sizes)[success]) for sizes in (self.norm, self.rms))
            said.append(f"median norm {norm:.4g}, RMS {rms:.4g}")
        said.append(f"at most {np.max(self.evaluations, initial=0)} evaluations")
        if not finite.all():
            said.append(f"{np.sum(~finite)} not finite")
        return f"AttackResult({', '.join(said)})"


@struct.dataclass(kw_only=True)
class Attack:
    """Base of every attack. One of your own needs `n_steps`, `init`, `step` and `result`.

    Most attacks derive from `FixedEpsilon` or `MinimumNorm`, which bring what those have in common.

    Attributes:
        criterion: what counts as success.
    """

    criterion: Criterion = struct.field(pytree_node=False, default=Misclassified())

    def __post_init__(self) -> None:
        """Refuse settings that are none, and bring those in other spellings into one form.

        Raises:
            UserError: in one line.
        """
        check_settings(self, in_use=False)

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return type(self).__name__.lower()

    @property
    def n_steps(self) -> int:
        """How many steps there are between `init` and `result`; the field `steps` where there is one."""
        return int(vars(self)["steps"])

    @property
    def evaluations(self) -> int:
        """Evaluations of the model for each image: its gradients, or a black box's queries."""
        return self.n_steps

    @property
    def is_random(self) -> bool:
        """Whether other keys give other results, so that restarts may find more."""
        return False

    @property
    def takes_random(self) -> bool:
        """Whether it can attack a network whose answers are draws (`from_random_function`)."""
        return False

    def until(self: _Same, criterion: Criterion) -> _Same:
        """The same attack with another criterion of success."""
        return dataclasses.replace(self, criterion=criterion)

    def with_settings(self: _Same, **settings: Any) -> _Same:
        """The same attack with other settings: steps, eps, stay_in_range, whatever fields it has.

        Raises:
            UserError: it has no such setting, or a value is none that it can work with.
        """
        return with_settings(self, "attack", settings)

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on, apart from model, image, key and criterion, as JSON can hold it.

        An infinite number, which JSON does not have, is None.
        """
        names = [field.name for field in dataclasses.fields(self) if field.name != "criterion"]
        numbers = {name: plain_number(getattr(self, name)) for name in names}
        fields = {name: None if isinstance(n, float) and math.isinf(n) else n for name, n in numbers.items()}
        return {"attack": self.name} | fields | code_settings(self)

    def check(self, n_classes: int | None = None) -> None:
        """Refuse settings that the attack cannot work with; a class with conditions of its own adds them.

        Args:
            n_classes: of the model; None if it is not known yet.

        Raises:
            UserError: in one line.
        """
        del n_classes
        check_settings(self)

    def parts(self, n_classes: int | None = None) -> "tuple[Part, ...]":
        """The attacks to run one after the other, here only this one; as many as there can be for None."""
        del n_classes
        return (Part(self, ()),)

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys) -> State:
        """State before the first step.

        Args:
            model: images to logits.
            images: x in [0,1].
            labels: true classes, or targets, as the criterion says.
            keys: of each example's random draws.
        """
        raise NotImplementedError

    def step(self, model: Model, images: Images, labels: Labels, state: State) -> State:
        """State after one more gradient (or query)."""
        raise NotImplementedError

    def result(self, model: Model, images: Images, labels: Labels, state: State) -> AttackResult:
        """What was found, from the state after the last step."""
        raise NotImplementedError

    def settled(self, state: State) -> Bool[Array, "*batch"]:
        """Whether more steps would change no example's result, for each; a single False if that is never known."""
        del state
        return jnp.zeros((), bool)

    def advance(self, model: Model, images: Images, labels: Labels, state: State, n_steps: int) -> State:
        """Make `n_steps` steps, compiled once however many they are."""
        return lax.scan(lambda now, _: (self.step(model, images, labels, now), None), state, length=n_steps)[0]

    def join(self, first: AttackResult, second: AttackResult) -> AttackResult:
        """What two runs on the same images found together: the first success counts."""
        return _joined(first, second, second.success & ~first.success)

    def __call__(
        self, model: Model, images: ImagesLike, labels: LabelsLike, key: Key[Array, "..."] | None = None
    ) -> AttackResult:
        """Attack images.

        Args:
            model: images to logits, for instance a `Classifier`.
            images: x in [0,1].
            labels: true classes, or the targets if the criterion is `Targeted`.
            key: of all random draws, folded with each example's place in the batch; or a key for each example, so
                that its draws do not depend on the batch (see `example_keys`). `jax.random.key(0)` if None.

        Raises:
            UserError: images, labels, model or settings are not what the attack can work with.
        """
        what = "target" if self.criterion.towards_label else "label"
        x, y, n_classes = checked(at_some_draw(model) if self.takes_random else model, images, labels, what)
        self.check(n_classes)
        return _run(self, as_pytree(model), x, y, example_keys(key, jnp.arange(len(x))))


class Part(NamedTuple):
    """An attack of an ensemble.

    Attributes:
        attack: that runs by itself.
        path: its place, and its ensemble's in a larger one; its draws depend on it.
    """

    attack: Attack
    path: tuple[int, ...]

    def keys(self, keys: Keys) -> Keys:
        """The keys of this part, from those of the whole."""
        for place in self.path:
            keys = fold_in_all(keys, place)
        return keys


def example_keys(key: Key[Array, "..."] | None, indices: Counts) -> Keys:
    """A key for each example, from the example's index in its data set.

    An example's draws therefore depend neither on its batch nor on the devices.

    Args:
        key: one for all; or one for each example, which are given back. `jax.random.key(0)` if None.
        indices: of the examples.

    Raises:
        UserError: it is no key, or there are more or fewer than examples.
    """
    key = as_key(key)
    if not key.ndim:
        return _folded(key, indices)
    if key.shape != (len(indices),):
        given = f"{len(key)} keys" if key.ndim == 1 else f"keys of shape {key.shape}"
        raise UserError(f"expected one key, or a key for each of {len(indices)} images, got {given}")
    return key


def as_key(key: Key[Array, "..."] | None) -> Key[Array, "..."]:
    """A key, or several, also where they are given as numbers, as of old; `jax.random.key(0)` if None.

    Raises:
        UserError: it is no key.
    """
    if key is None:
        return jax.random.key(0)
    if not hasattr(key, "dtype"):
        raise UserError(f"expected a key such as jax.random.key(0), got {key!r}")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    try:
        return jax.random.wrap_key_data(key)
    except (TypeError, ValueError):
        raise UserError(
            f"expected a key such as jax.random.key(0), got an array of {key.dtype} of shape {key.shape}"
        ) from None


# Compiled, for operation by operation it takes as long as a pass of a small network.
@jax.jit
def _folded(key: Key[Array, ""], indices: Counts) -> Keys:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def as_attack(attack: Any) -> Attack:
    """Give an attack back.

    Raises:
        UserError: it is something else, its name for instance.
    """
    if not isinstance(attack, Attack):
        raise UserError(f"expected an attack such as advx_jax.attacks.PGD(eps=0.5, norm='L2'), got {attack!r}")
    if jax.tree_util.all_leaves([attack]):
        name = type(attack).__name__
        raise UserError(
            f"expected an attack that is a pytree, got {name}: put @flax.struct.dataclass above class {name}"
        )
    return attack


def fold_in_all(keys: Keys, number: int | Array) -> Keys:
    """Other keys, one for each, for the draws of that number."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def nothing_found(images: Images) -> AttackResult:
    """The result of an attack that was not run."""
    batch = images.shape[0]
    infinite, none = jnp.full(batch, jnp.inf, images.dtype), jnp.zeros(batch, jnp.int32)
    return AttackResult(images, jnp.zeros(batch, bool), infinite, infinite, none, none, jnp.ones(batch, bool))


def _joined(first: AttackResult, second: AttackResult, take_second: Mask) -> AttackResult:
    def choose(one: Array, other: Array) -> Array:
        return jnp.where(per_example(take_second, one), other, one)

    return AttackResult(
        adversarial=choose(first.adversarial, second.adversarial),
        success=first.success | second.success,
        norm=choose(first.norm, second.norm),
        rms=choose(first.rms, second.rms),
        first_success=jnp.where(first.success, first.first_success, first.evaluations + second.first_success),
        evaluations=first.evaluations + second.evaluations,
        finite=first.finite & second.finite,
    )


def smaller(first: AttackResult, second: AttackResult) -> AttackResult:
    """Of two results for the same images, the smaller success of each."""
    return _joined(first, second, second.norm < first.norm)


def plain_number(value: Any) -> Any:
    """A number as Python has it, where it is known."""
    known = isinstance(value, np.generic | np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)
    return value.item() if known and value.ndim == 0 else value


@jax.jit
def _run(attack: Attack, model: Model, images: Array, labels: Array, keys: Array) -> AttackResult:
    n_classes = jax.eval_shape(at_some_draw(model), images).shape[-1]

    def one(part: Attack, keys: Array) -> AttackResult:
        state = part.init(model, images, labels, keys)
        return part.result(model, images, labels, part.advance(model, images, labels, state, part.n_steps))

    parts = attack.parts(n_classes)
    if len(parts) == 1:
        return one(parts[0].attack, parts[0].keys(keys))
    result = nothing_found(images)
    for alike in _runs_of_alike(parts):
        # Parts that differ in numbers only are compiled once.
        attacks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(part.attack for part in alike))
        all_keys = jnp.stack([part.keys(keys) for part in alike])
        result, _ = lax.scan(lambda now, part: (attack.join(now, one(*part)), None), result, (attacks, all_keys))
    return result


def _runs_of_alike(parts: tuple[Part, ...]) -> list[list[Part]]:
    """Group neighbours whose attacks have the same structure."""
    groups: list[list[Part]] = []
    for part in parts:
        structure: Any = jax.tree.structure(part.attack)
        if groups and structure == jax.tree.structure(groups[-1][0].attack):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups
