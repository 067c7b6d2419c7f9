"""The paper's adversarial explanation as an attribution (arXiv 1906.02896; docs/method.md, Explanations)."""

from flax import struct

from advx_jax.analysis.attribution.base import Attribution, Attributions
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model
from advx_jax.attacks.explaining import ExplanationAttack, check_explains
from advx_jax.attacks.frank_wolfe import FrankWolfe
from advx_jax.attacks.passes import steps_cost
from advx_jax.attacks.published import EXPLANATION

# An attack with one gradient a step takes one of however many classes.
_ANY_CLASSES = 10


@struct.dataclass(kw_only=True)
class AdversarialExplanation(Attribution):
    """a = δ, the change of size ρ that makes the image look more like the target: the difference map.

    Where δ is positive the image should be brighter to be more like the class; x + δ is the explanation itself.

    Attributes:
        attack: towards a class; ρ is its eps. In another norm than the paper's, one of `attacks.EXPLANATIONS`.
    """

    attack: ExplanationAttack = EXPLANATION

    @property
    def name(self) -> str:
        """For people, tables and results: that of the published norm, or with another norm behind it."""
        return f"adversarial_{self.attack.norm.lower()}" if isinstance(self.attack, FrankWolfe) else "adversarial"

    def passes(self, image_shape: tuple[int, ...]) -> int:
        """Those of the attack's steps."""
        return steps_cost(self.attack, _ANY_CLASSES, image_shape)

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Check the attack, which must go towards the target."""
        super().check(image_shape)
        check_explains(self.attack)
        self.attack.check()

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        attack = self.attack
        state = attack.advance(model, images, targets, attack.init(model, images, targets, keys), attack.n_steps)
        return attack.explained(model, images, targets, state).perturbation
