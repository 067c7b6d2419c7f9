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
from advx_jax.attacks.base import Attack, AttackResult, Model, Part, State, nothing_found, smaller
from advx_jax.errors import UserError
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
    """Base of attacks that are made of others; all work towards its criterion."""

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
        """Refuse what any part refuses.

        Raises:
            UserError: in one line.
        """
        super().check(n_classes)
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
    """

    attacks: tuple[Attack, ...]

    def members(self, n_classes: int | None) -> tuple[Attack, ...]:
        """The attacks."""
        del n_classes
        return self.attacks

    def with_settings(self: _Listed, **settings: Any) -> _Listed:
        """The same with other settings of its own, or of each of its attacks."""
        own, others = _split(self, settings)
        return dataclasses.replace(self, **({"attacks": self._changed(**others)} | own))

    def _changed(self, **settings: Any) -> tuple[Attack, ...]:
        return tuple(attack.with_settings(**settings) for attack in self.attacks)

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on, the settings of each part under its number."""
        parts = {f"{n}.{k}": v for n, attack in enumerate(self.attacks, 1) for k, v in attack.settings().items()}
        return {"attack": self.name, "steps": self.n_steps} | parts


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
        norms = dict.fromkeys(getattr(attack, "norm", "L2") for attack in self.attacks)
        if len(norms) > 1:
            raise UserError(f"expected attacks of one norm in {self.name}, got {', '.join(norms)}")
        super().check(n_classes)

    def _changed(self, **settings: Any) -> tuple[Attack, ...]:
        """Steps are those of the whole, shared out as now."""
        steps = settings.pop("steps", None)
        changed = super()._changed(**settings)
        if steps is None:
            return changed
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
    """

    attack: Attack
    restarts: int = struct.field(pytree_node=False)

    @property
    def name(self) -> str:
        """The attack's."""
        return self.attack.name

    def members(self, n_classes: int | None) -> tuple[Attack, ...]:
        """The attack, so often; all targets have their turn before the first comes again."""
        del n_classes
        return (self.attack,) * (self.restarts if self.attack.is_random else min(self.restarts, 1))

    def join(self, first: AttackResult, second: AttackResult) -> AttackResult:
        """As the attack joins its own runs."""
        return self.attack.join(first, second)

    def with_settings(self: _Restarted, **settings: Any) -> _Restarted:
        """The same with other settings of its own, or of the attack."""
        own, others = _split(self, settings)
        return dataclasses.replace(self, **({"attack": self.attack.with_settings(**others)} | own))

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on."""
        return self.attack.settings() | {"restarts": self.restarts}


def _split(ensemble: Ensemble, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ensemble's own settings, and those that are meant for its attacks."""
    own = {field.name for field in dataclasses.fields(ensemble)}
    return (
        {name: value for name, value in settings.items() if name in own},
        {name: value for name, value in settings.items() if name not in own},
    )
