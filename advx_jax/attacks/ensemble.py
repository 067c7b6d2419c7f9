"""Several attacks one after the other as one attack: restarts, targets in turn, the first or the smallest success."""

import dataclasses
import itertools
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Int

from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Attack, AttackResult, Model, Part, State, as_attack, nothing_found, smaller
from advx_jax.attacks.checks import counted
from advx_jax.attacks.criteria import Criterion, Misclassified
from advx_jax.errors import UserError
from advx_jax.importing import code_settings
from advx_jax.networks.random_classifier import at_some_draw

_Listed = TypeVar("_Listed", bound="Listed")
_Restarted = TypeVar("_Restarted", bound="Restarted")


class EnsembleState(NamedTuple):
    """State between two steps.

    Attributes:
        made: steps made, of all parts together.
        states: of each part.
    """

    made: Int[Array, ""]
    states: tuple[State, ...]


@struct.dataclass(kw_only=True)
class Ensemble(Attack):
    """Base of attacks that are made of others; all work towards its criterion.

    A member that was told another criterion than Misclassified() must have been told the same one.
    """

    def members(self, n_classes: int | None) -> tuple[Attack, ...]:
        """The attacks, in their order; as many as there can be if the number of classes is None."""
        raise NotImplementedError

    def parts(self, n_classes: int | None = None) -> tuple[Part, ...]:
        """All attacks that run by themselves, those of ensembles within this one too."""
        return tuple(
            Part(part.attack, (place, *part.path))
            for place, member in enumerate(self.members(n_classes))
            for part in member.until(self.criterion).parts(n_classes)
        )

    @property
    def n_steps(self) -> int:
        """Steps of all parts; where a model has too few classes for all, the last do nothing."""
        return sum(part.attack.n_steps for part in self.parts())

    @property
    def evaluations(self) -> int:
        """Evaluations of the model for each image, at most."""
        return sum(part.attack.evaluations for part in self.parts())

    @property
    def is_random(self) -> bool:
        """Whether any part is."""
        return any(part.attack.is_random for part in self.parts())

    @property
    def takes_random(self) -> bool:
        """Whether all parts do."""
        return all(part.attack.takes_random for part in self.parts())

    def check(self, n_classes: int | None = None) -> None:
        """Refuse what any part refuses, and members with another criterion.

        Raises:
            UserError: in one line.
        """
        super().check(n_classes)
        for member in self.members(n_classes):
            if member.criterion not in (Misclassified(), self.criterion):
                raise UserError(
                    f"expected the criterion {self.criterion} for all attacks in {self.name}, got {member.criterion} "
                    f"in {member.name}: until(…) sets it for all"
                )
        parts = self.parts(n_classes)
        if not parts:
            raise UserError(f"expected at least 1 attack in {self.name}, got none")
        for part in parts:
            part.attack.check(n_classes)

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys) -> EnsembleState:
        """State before the first step of each part."""
        states = tuple(p.attack.init(model, images, labels, p.keys(keys)) for p in self._parts(model, images))
        return EnsembleState(jnp.zeros((), jnp.int32), states)

    def step(self, model: Model, images: Images, labels: Labels, state: EnsembleState) -> EnsembleState:
        """One step of the part whose turn it is."""
        parts = self._parts(model, images)

        def turn_of(place: int, part: Part) -> Any:
            def make(states: tuple[State, ...]) -> tuple[State, ...]:
                moved = part.attack.step(model, images, labels, states[place])
                return (*states[:place], moved, *states[place + 1 :])

            return make

        turns = [turn_of(place, part) for place, part in enumerate(parts)]
        ends = jnp.cumsum(jnp.array([part.attack.n_steps for part in parts]))
        whose = jnp.searchsorted(ends, state.made, side="right")
        return EnsembleState(state.made + 1, lax.switch(whose, [*turns, lambda states: states], state.states))

    def result(self, model: Model, images: Images, labels: Labels, state: EnsembleState) -> AttackResult:
        """What the parts found together."""
        result = nothing_found(images)
        for part, part_state in zip(self._parts(model, images), state.states, strict=True):
            result = self.join(result, part.attack.result(model, images, labels, part_state))
        return result

    def _parts(self, model: Model, images: Array) -> tuple[Part, ...]:
        return self.parts(jax.eval_shape(at_some_draw(model), images).shape[-1])


@struct.dataclass(kw_only=True)
class Listed(Ensemble):
    """Base of ensembles of any attacks.

    Attributes:
        attacks: in their order.
        criterion: of all of them; the one that they share where nobody says.
    """

    attacks: tuple[Attack, ...]
    criterion: Criterion = struct.field(pytree_node=False, default=None)

    def __post_init__(self) -> None:
        """Take the criterion from the attacks where nobody says, and see `Attack`.

        Raises:
            UserError: in one line.
        """
        if isinstance(self.attacks, list):
            object.__setattr__(self, "attacks", tuple(self.attacks))
        # JAX puts other things in the attacks' place, but has their criterion then.
        if isinstance(self.attacks, Attack | str) or (self.criterion is None and not isinstance(self.attacks, tuple)):
            raise UserError(f"expected attacks in a tuple or a list, got {self.attacks!r}")
        if self.criterion is None:
            object.__setattr__(self, "criterion", _shared_criterion(self.name, self.attacks))
        super().__post_init__()

    def members(self, n_classes: int | None) -> tuple[Attack, ...]:
        """The attacks."""
        del n_classes
        return tuple(map(as_attack, self.attacks))

    def until(self: _Listed, criterion: Criterion) -> _Listed:
        """The same, each attack with another criterion of success."""
        attacks = tuple(attack.until(criterion) for attack in self.members(None))
        return dataclasses.replace(self, attacks=attacks, criterion=criterion)

    def with_settings(self: _Listed, **settings: Any) -> _Listed:
        """The same with other settings of its own, or of each of its attacks; the criterion is of both."""
        own, others = _split(self, settings)
        changed = dataclasses.replace(self, **({"attacks": self._changed(**others)} | own))
        return changed.until(changed.criterion) if "criterion" in own else changed

    def _changed(self, **settings: Any) -> tuple[Attack, ...]:
        return tuple(attack.with_settings(**settings) for attack in self.attacks)

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on, the settings of each part under its number."""
        parts = {f"{n}.{k}": v for n, attack in enumerate(self.attacks, 1) for k, v in attack.settings().items()}
        return {"attack": self.name, "steps": self.n_steps} | parts | code_settings(self)


@struct.dataclass(kw_only=True)
class FirstSuccess(Listed):
    """Any attacks; of each image the first success counts, and later attacks are spared it where they can be."""


@struct.dataclass(kw_only=True)
class SmallestSuccess(Listed):
    """Any minimum-norm attacks of one norm; of each image the smallest success counts.

    Attributes:
        title: the name of the whole.
    """

    title: str = struct.field(pytree_node=False, default="smallest")

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return self.title

    def join(self, first: AttackResult, second: AttackResult) -> AttackResult:
        """The smaller success of each image."""
        return smaller(first, second)

    def check(self, n_classes: int | None = None) -> None:
        """Refuse what any part refuses, and parts whose sizes cannot be compared.

        Raises:
            UserError: in one line.
        """
        # What has no such setting, as the paper's attacks, measures L2.
        norms = dict.fromkeys(getattr(part.attack, "norm", "L2") for part in self.parts(n_classes))
        if len(norms) > 1:
            raise UserError(f"expected attacks of one norm in {self.name}, got {', '.join(norms)}")
        super().check(n_classes)

    def _changed(self, **settings: Any) -> tuple[Attack, ...]:
        """Steps are those of the whole, shared out as now."""
        if "steps" not in settings:
            return super()._changed(**settings)
        steps = counted("steps", settings.pop("steps"))
        changed = super()._changed(**settings)
        if steps < len(self.attacks):
            raise UserError(f"expected at least {len(self.attacks)} steps for {self.name}, got {steps}")
        total = self.n_steps
        ends = [steps * end // total for end in itertools.accumulate(attack.n_steps for attack in self.attacks)]
        counts = [end - begin for begin, end in itertools.pairwise([0, *ends])]
        return tuple(attack.with_settings(steps=count) for attack, count in zip(changed, counts, strict=True))


@struct.dataclass(kw_only=True)
class Restarted(Ensemble):
    """An attack that is run several times, each with draws of its own.

    Attributes:
        attack: to run.
        restarts: how often.
        criterion: the attack's where nobody says.
    """

    attack: Attack
    restarts: int = struct.field(pytree_node=False)
    criterion: Criterion = struct.field(pytree_node=False, default=None)

    def __post_init__(self) -> None:
        """Take the criterion from the attack where nobody says, and see `Attack`.

        Raises:
            UserError: in one line.
        """
        if self.criterion is None:
            object.__setattr__(self, "criterion", as_attack(self.attack).criterion)
        super().__post_init__()

    @property
    def name(self) -> str:
        """The attack's."""
        return self.attack.name

    def members(self, n_classes: int | None) -> tuple[Attack, ...]:
        """The attack, so often; all targets have their turn before the first comes again."""
        del n_classes
        attack = as_attack(self.attack)
        return (attack,) * (self.restarts if attack.is_random else min(self.restarts, 1))

    def until(self: _Restarted, criterion: Criterion) -> _Restarted:
        """The same with another criterion of success, the attack's too."""
        return dataclasses.replace(self, attack=as_attack(self.attack).until(criterion), criterion=criterion)

    def join(self, first: AttackResult, second: AttackResult) -> AttackResult:
        """As the attack joins its own runs."""
        return self.attack.join(first, second)

    def with_settings(self: _Restarted, **settings: Any) -> _Restarted:
        """The same with other settings of its own, or of the attack; the criterion is of both."""
        own, others = _split(self, settings)
        changed = dataclasses.replace(self, **({"attack": self.attack.with_settings(**others)} | own))
        return changed.until(changed.criterion) if "criterion" in own else changed

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on."""
        # The attack may have code of its own, too.
        own = {f"restarted_{name}": value for name, value in code_settings(self).items()}
        return self.attack.settings() | {"restarts": self.restarts} | own


def _shared_criterion(name: str, attacks: tuple[Attack, ...]) -> Criterion:
    """The one that all attacks have; that of any attack where there are none.

    Raises:
        UserError: they have several, or one is no attack.
    """
    criteria = dict.fromkeys(as_attack(attack).criterion for attack in attacks)
    if len(criteria) > 1:
        raise UserError(f"expected attacks of one criterion in {name}, got {', '.join(map(str, criteria))}")
    return next(iter(criteria), Misclassified())


def _split(ensemble: Ensemble, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ensemble's own settings, and those that are meant for its attacks."""
    own = {field.name for field in dataclasses.fields(ensemble)}
    return (
        {name: value for name, value in settings.items() if name in own},
        {name: value for name, value in settings.items() if name not in own},
    )
