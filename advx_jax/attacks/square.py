"""Square Attack: a random search that changes one square window at a time and asks for logits only.

From "Square Attack: a query-efficient black-box adversarial attack via random search" (Andriushchenko,
Croce, Flammarion and Hein 2020, arXiv 1912.00049); in L1 by "Mind the box: l1-APGD for sparse adversarial attacks on
image classifiers" (Croce and Hein 2021, arXiv 2103.01208). Each image has windows and signs of its own, so
that they depend on no other image.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.arrays import Images, Keys, Labels, Logits, Perturbations, Values
from advx_jax.attacks.base import Model, fold_in_all
from advx_jax.attacks.criteria import logit_lag, logit_lead
from advx_jax.attacks.fixed_epsilon import BestSoFar, RandomStart
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import Norm, l2_norm
from advx_jax.errors import UserError

# Fraction of the image that a window covers, and the steps after which it is halved (paper, section 4,
# made for 10,000 steps; as AutoAttack does, we keep to these steps whatever the number of steps is).
_FIRST_FRACTION = 0.8
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SMALLEST_SIDE = 3
_TILES = 5
_TINY = 1e-12


class SquareState(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        best: the point with the largest margin loss so far.
        best_loss: there.
        keys: of each image's draws.
        best_so_far: the first success.
    """

    step: Int[Array, ""]
    best: Images
    best_loss: Values
    keys: Keys
    best_so_far: BestSoFar


def window_side(step: int, height: int, width: int, norm: str) -> int:
    """Side of the window of a step, in pixels; odd, and at least 3, in L1 and L2."""
    fraction = _FIRST_FRACTION / 2 ** sum(step > end for end in _HALVINGS)
    side = round(np.sqrt(fraction * height * width))
    if norm != "Linf":
        side = max(side, _SMALLEST_SIDE)
        side += side % 2 == 0
    return int(min(max(side, 1), height, width))


@struct.dataclass(kw_only=True)
class Square(RandomStart):
    """Square Attack on the margin loss.

    Attributes:
        norm: "L1", "L2" or "Linf".
        steps: one query each; AutoAttack makes 5000.
    """

    norms = ("L1", "L2", "Linf")

    steps: int = struct.field(pytree_node=False, default=5000)

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys) -> SquareState:
        """State before the first step: vertical stripes of ±eps (L∞), or a grid of bumps of random signs (L1, L2).

        Raises:
            UserError: the images are not a batch of (height, width, channels).
        """
        if images.ndim != 4:
            raise UserError(f"expected images of shape (batch, height, width, channels), got {images.shape}")
        drawn = self.drawn(keys, images)
        # In L1 bumps of length 1 each, so that the nearest point in ball and box keeps their peaks.
        initial = self.project(images, images + (drawn if self.norm == "L1" else self.eps * drawn))
        best_so_far, _ = self.initial_best(model, images, labels)
        logits = model(initial)
        best_so_far = self.update_best(best_so_far, initial, logits, labels)
        return SquareState(jnp.zeros((), jnp.int32), initial, self._loss(logits, labels), keys, best_so_far)

    def drawn(self, keys: Keys, images: Images) -> Perturbations:
        """Stripes or bumps."""
        draw = _stripes if self.norm == "Linf" else functools.partial(_bumps, self.norm)
        height, width, channels = images.shape[1:]
        # The draws of the steps are folded in from 0 upwards.
        first_keys = fold_in_all(keys, self.steps)
        return jax.vmap(lambda key: draw(key, (height, width, channels)))(first_keys).astype(images.dtype)

    def _loss(self, logits: Logits, labels: Labels) -> Values:
        return logit_lead(logits, labels) if self.criterion.towards_label else logit_lag(logits, labels)

    def step(self, model: Model, images: Images, labels: Labels, state: SquareState) -> SquareState:
        """Change a window of each image, and keep the change where the loss rises."""
        height, width = images.shape[1:3]
        sides = np.array([window_side(step, height, width, self.norm) for step in range(self.steps)])
        distinct = np.unique(sides)
        pairs = [_bump_pair(self.norm, int(side), height, width) for side in distinct]
        bumps = jnp.asarray(np.stack(pairs), images.dtype)
        kind = jnp.asarray(np.searchsorted(distinct, sides))[state.step]
        side = jnp.asarray(distinct)[kind]
        keys = fold_in_all(state.keys, state.step)

        def propose(key: Array, image: Array, best: Array) -> Array:
            if self.norm == "Linf":
                return _recolour(key, best, side, self.eps)
            return image + _reshape(self.norm, key, best - image, side, bumps[kind], self.eps)

        new = jax.vmap(propose)(keys, images, state.best)
        if self.norm == "L2":
            # The energy that clipping took away is given back, as far as clipping allows.
            length = l2_norm(new - images)
            new = images + (new - images) * per_example(self.eps / (length + _TINY), new)
        new = self.project(images, new)
        logits = model(new)
        values = self._loss(logits, labels)
        better = (values > state.best_loss) & ~state.best_so_far.success
        return SquareState(
            step=state.step + 1,
            best=jnp.where(per_example(better, new), new, state.best),
            best_loss=jnp.where(better, values, state.best_loss),
            keys=state.keys,
            best_so_far=self.update_best(state.best_so_far, new, logits, labels),
        )


def _sign(key: Array, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    return jax.random.rademacher(key, shape, jnp.float32)


def _stripes(key: Array, shape: tuple[int, int, int]) -> Float[Array, "height width channels"]:
    height, width, channels = shape
    return jnp.broadcast_to(_sign(key, (1, width, channels)), (height, width, channels))


def _window(corner: Int[Array, "2"], side: Array, height: int, width: int) -> Bool[Array, "height width 1"]:
    """True inside of a square window."""
    rows, columns = jnp.arange(height) - corner[0], jnp.arange(width) - corner[1]
    inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))[None]
    return inside[:, :, None]


def _corner(key: Array, side: Array, height: int, width: int) -> Int[Array, "2"]:
    """A window's upper left corner, uniform over all windows that lie inside the image."""
    return jax.random.randint(key, (2,), 0, jnp.array([height, width]) - side + 1)


def _recolour(key: Array, best: Array, side: Array, eps: float | Array) -> Float[Array, "height width channels"]:
    """Move a window of a point by ±2·eps in each channel, to be brought back into the ball."""
    height, width, channels = best.shape
    corner_key, sign_key = jax.random.split(key)
    inside = _window(_corner(corner_key, side, height, width), side, height, width)
    return best + inside * (2 * eps * _sign(sign_key, (channels,))[None, None]).astype(best.dtype)


def _reshape(
    norm: Norm, key: Array, delta: Array, side: Array, bumps: Float[Array, "2 height width"], eps: float | Array
) -> Float[Array, "height width channels"]:
    """Add a bump to what one window of a perturbation has, pay with another window's energy (paper, algorithm 3)."""
    height, width, channels = delta.shape
    first_key, second_key, turn_key, sign_key = jax.random.split(key, 4)
    corner = _corner(first_key, side, height, width)
    first = _window(corner, side, height, width)
    second = _window(_corner(second_key, side, height, width), side, height, width)

    def energy(values: Array) -> Array:
        return _raised(norm, values).sum((0, 1), keepdims=True)

    bump = bumps[jax.random.bernoulli(turn_key).astype(jnp.int32)]
    bump = jnp.roll(bump, corner, (0, 1))[:, :, None] * _sign(sign_key, (channels,))[None, None].astype(delta.dtype)
    inside = delta * first
    new = bump + inside / (_root(norm, energy(inside)) + _TINY)
    unused = jnp.maximum(_raised(norm, eps) - _raised(norm, delta).sum(), 0) / channels
    length = _root(norm, unused + energy(delta * (first | second)))
    if norm == "L1":
        # The authors': so much more than there is, which the projection onto the ball takes from the small values.
        length = length * channels
    new = new / (_root(norm, energy(new)) + _TINY) * length
    return jnp.where(first, new, jnp.where(second, 0, delta))


def _raised(norm: Norm, values: float | Array) -> Array:
    """What adds up to a size, or to its square in L2: energy."""
    return jnp.abs(values) if norm == "L1" else jnp.square(values)


def _root(norm: Norm, energy: Array) -> Array:
    """The size of that energy."""
    return energy if norm == "L1" else jnp.sqrt(energy)


def _half_bump(norm: Norm, rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """Rings around the middle, 1/(r+1)² more with each ring inwards; in L1 1/(r+1)⁴."""
    rings = max(rows, columns) // 2 + 1
    fall = 4 if norm == "L1" else 2
    sums = np.cumsum(1 / np.arange(rings, 0, -1.0) ** fall)[::-1]
    down, right = np.arange(rows) - rows // 2, np.arange(columns) - columns // 2
    ring = np.maximum(np.abs(down)[:, None], np.abs(right)[None])
    return _of_length_1(norm, np.where(ring < rings, sums[np.minimum(ring, rings - 1)], 0))


def _of_length_1(norm: Norm, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    length = np.abs(values).sum() if norm == "L1" else np.sqrt((values**2).sum())
    return values / length if length > 0 else values


def _bump(norm: Norm, side: int) -> Float[np.ndarray, "side side"]:
    """The paper's η, of length 1: a positive bump above a negative one."""
    upper = side // 2
    return _of_length_1(norm, np.concatenate([_half_bump(norm, upper, side), -_half_bump(norm, side - upper, side)]))


def _bump_pair(norm: Norm, side: int, height: int, width: int) -> Float[np.ndarray, "2 height width"]:
    """The bump upright and lying, in the corner of an empty image."""
    pair = np.zeros((2, height, width))
    pair[0, :side, :side] = _bump(norm, side)
    pair[1, :side, :side] = _bump(norm, side).T
    return pair


def _bumps(norm: Norm, key: Array, shape: tuple[int, int, int]) -> Float[Array, "height width channels"]:
    """A grid of bumps of random directions and signs; in L2 of length 1 in all, in L1 of length 1 each."""
    height, width, channels = shape
    side = max(min(height, width) // _TILES, 1)
    down, right = height // side, width // side
    top = (height - down * side) // 2
    left = (width - right * side) // 2
    turn_key, sign_key = jax.random.split(key)
    upright, lying = jnp.asarray(_bump(norm, side), jnp.float32), jnp.asarray(_bump(norm, side).T, jnp.float32)
    turned = jax.random.bernoulli(turn_key, shape=(down, right))
    tiles = jnp.where(turned[:, :, None, None], lying, upright)
    signed = tiles[..., None] * _sign(sign_key, (down, right, 1, 1, channels))
    grid = signed.transpose(0, 2, 1, 3, 4).reshape(down * side, right * side, channels)
    whole = jnp.zeros(shape).at[top : top + down * side, left : left + right * side].set(grid)
    return whole if norm == "L1" else whole / jnp.sqrt(jnp.square(whole).sum())
