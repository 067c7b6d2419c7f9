"""Time a gradient evaluation inside attacks of other libraries and inside ours, on the same images and network.

    python -m benchmarks.peers [--steps=60] [--rounds=2]

Needs the peers (see the README); one that is not installed is left out, and said so. Each gets the 32
images as one batch and every core; ours run as the commands run them, in chunks on all lanes. Both in turns, first
calls not counted; the best round of each counts. Processor time is that of all threads together.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.robust_accuracy import run_attack, sanity_checks
from advx_jax.analysis.robustness_area import minimum_norm_distances
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.attacks import ALMA, APGD, DDN, FAB, FMN, PDGD, PDPGD, PGD, Attack, SigmaZero
from advx_jax.attacks.base import Part
from advx_jax.errors import UserError
from advx_jax.reports.console import table
from benchmarks.side_by_side import MODEL, ModelPair, model_pair, torch_settings, write

N_IMAGES = 32
# So small that images of any network stay robust to the end: attacks on all broken ones would stop early.
EPS = 0.01
# Without compilation a step takes seconds.
_EAGER_STEPS = 2

_N_STEPS = flags.DEFINE_integer("steps", 60, "Number of attack steps.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "How often to time each.", lower_bound=1)


class Work(NamedTuple):
    """An attack and how many gradients it evaluates of each image.

    Attributes:
        run: does it.
        gradients: evaluations of each image.
    """

    run: Callable[[], object]
    gradients: int


class Pairing(NamedTuple):
    """One line of the table.

    Attributes:
        peer: the other library.
        attack: its name.
        theirs: it.
        ours: the same attack here.
    """

    peer: str
    attack: str
    theirs: Work
    ours: Work


class Cost(NamedTuple):
    """Of one gradient evaluation of one image, in milliseconds.

    Attributes:
        wall: on the clock.
        processor: of all threads.
    """

    wall: float
    processor: float


@command()
def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    no_arguments(arguments)
    them, steps = _standing(model_pair()), _N_STEPS.value
    rows: list[dict[str, Any]] = []
    for pairings in (_adv_lib, _pyautoattack, _torchattacks, _foolbox_with_pytorch, _foolbox_with_jax):
        try:
            rows.extend(_compare(pairing, _ROUNDS.value) for pairing in pairings(them, steps))
        except ImportError as error:
            print(f"{pairings.__name__.strip('_')} left out: {error}", flush=True)
    if not rows:
        raise UserError("expected at least one of the peers that the README tells how to install, got none")
    cells = [
        (
            row["peer"],
            row["attack"],
            f"{row['theirs']['wall']:.2f}",
            f"{row['ours']['wall']:.2f}",
            f"{row['wall_ratio']:.2f}",
            f"{row['processor_ratio']:.2f}",
        )
        for row in rows
    ]
    print(table(("peer", "attack", "peer ms", "ours ms", "ratio", "processor time"), cells))
    write("peers", {"model": MODEL, "steps": steps, "n_images": N_IMAGES} | torch_settings(), {"rows": rows})


def _standing(them: ModelPair) -> ModelPair:
    """Both with the first images that are classified correctly: some peers attack no others."""
    correct = sanity_checks(them.classifier, them.images, them.labels).correct
    places = np.flatnonzero(correct)[:N_IMAGES]
    return them._replace(images=them.images[places], labels=them.labels[places], tensors=them.tensors[places])


def _compare(pairing: Pairing, rounds: int) -> dict[str, Any]:
    for work in (pairing.theirs, pairing.ours):
        work.run()
    times = [(_cost(pairing.theirs), _cost(pairing.ours)) for _ in range(rounds)]
    theirs, ours = (Cost(*map(min, zip(*side, strict=True))) for side in zip(*times, strict=True))
    print(f"{pairing.peer} {pairing.attack}: {theirs.wall:.2f} ms, ours {ours.wall:.2f} ms", flush=True)
    return {
        "peer": pairing.peer,
        "attack": pairing.attack,
        "theirs": theirs._asdict(),
        "ours": ours._asdict(),
        "gradients": {"theirs": pairing.theirs.gradients, "ours": pairing.ours.gradients},
        "wall_ratio": ours.wall / theirs.wall,
        "processor_ratio": ours.processor / theirs.processor,
    }


def _cost(work: Work) -> Cost:
    wall, processor = time.perf_counter(), time.process_time()
    work.run()
    scale = 1000 / (N_IMAGES * work.gradients)
    return Cost(scale * (time.perf_counter() - wall), scale * (time.process_time() - processor))


def _ours(them: ModelPair, name: str, steps: int) -> Work:
    """Our attack with a fixed epsilon of that name, as the commands run it."""
    ball: dict[str, Any] = {"eps": EPS, "norm": "L2", "steps": steps}
    made = {"pgd": PGD(**ball), "apgd-ce": APGD(**ball), "fab-t": FAB(targeted=True, **ball)}[name]
    indices, key = np.arange(N_IMAGES), jax.random.key(0)

    rows = chunk_rows(N_IMAGES, row_bytes(them.classifier, them.images, made))

    def attack() -> None:
        parts = run_attack(them.classifier, them.images, them.labels, indices, Part(made, ()), key, rows)
        if any(part.success.all() for _, part in parts):
            raise RuntimeError("all images of a chunk were broken, so that less was done than is counted")

    return Work(attack, made.evaluations)


def _our_search(them: ModelPair, search: Attack) -> Work:
    """Our minimum-norm attack, as the commands run it."""
    arguments = them.classifier, them.images, them.labels, search
    return Work(lambda: list(minimum_norm_distances(*arguments)), search.n_steps)


@contextlib.contextmanager
def _counted(them: ModelPair) -> Iterator[tuple[Any, list[int]]]:
    """The twin, and a list that gets an entry for each evaluation with a gradient."""
    seen: list[int] = []

    def note(_: object, arguments: tuple[Any, ...]) -> None:
        if arguments[0].requires_grad:
            seen.append(len(arguments[0]))

    hook = them.twin.register_forward_pre_hook(note)
    try:
        yield them.twin, seen
    finally:
        hook.remove()


def _theirs(them: ModelPair, attack: Callable[[Any, Any, Any], object]) -> Work:
    """A peer's attack on the twin; how many gradients it evaluates is counted."""
    import torch

    labels = torch.tensor(them.labels, dtype=torch.int64, device=them.tensors.device)
    with _counted(them) as (twin, seen):
        attack(twin, them.tensors, labels)
    if sum(seen) % N_IMAGES:
        raise RuntimeError(f"expected gradients of all {N_IMAGES} images at each step, got {sum(seen)}")
    return Work(lambda: attack(them.twin, them.tensors, labels), sum(seen) // N_IMAGES)


def _adv_lib(them: ModelPair, steps: int) -> Iterator[Pairing]:
    from reference.peers import peer

    # Its name in the table, where it is there, its settings, and ours.
    searches: tuple[tuple[str, str, dict[str, Any], Attack], ...] = (
        ("DDN", "decoupled_direction_norm.ddn", {}, DDN()),
        ("FMN", "fast_minimum_norm.fmn", {"norm": 2}, FMN()),
        ("FMN, L0", "fast_minimum_norm.fmn", {"norm": 0}, FMN(norm="L0")),
        ("FMN, L1", "fast_minimum_norm.fmn", {"norm": 1}, FMN(norm="L1")),
        ("σ-zero, L0", "sigma_zero.sigma_zero", {}, SigmaZero()),
        ("PDGD", "primal_dual_gradient_descent.pdgd", {}, PDGD()),
        ("PDPGD, L1", "primal_dual_gradient_descent.pdpgd", {"norm": 1}, PDPGD(norm="L1")),
        ("PDPGD, L∞", "primal_dual_gradient_descent.pdpgd", {"norm": float("inf")}, PDPGD(norm="Linf")),
        ("ALMA", "augmented_lagrangian.alma", {}, ALMA()),
        ("ALMA, L1", "augmented_lagrangian.alma", {"distance": "l1"}, ALMA(norm="L1")),
    )
    for name, place, options, ours in searches:
        module, function = place.split(".")
        attack = getattr(peer(f"adv_lib.attacks.{module}"), function)
        count = {"steps" if function in ("ddn", "fmn") else "num_steps": steps}
        theirs = _theirs(them, functools.partial(attack, **options, **count))
        yield Pairing("adv-lib", name, theirs, _our_search(them, ours.with_settings(steps=steps)))


def _pyautoattack(them: ModelPair, steps: int) -> Iterator[Pairing]:
    from reference.peers import peer

    apgd = peer("pyautoattack.autopgd_base").APGDAttack
    fab = peer("pyautoattack.fab_pt").FABAttack_PT
    settings = {"n_iter": steps, "norm": "L2", "eps": EPS, "device": them.tensors.device}

    def one_run(network: Any, x: Any, y: Any) -> object:
        attack = apgd(network, loss="ce", **settings)
        attack.init_hyperparam(x)
        return attack.attack_single_run(x, y)

    def one_target(network: Any, x: Any, y: Any) -> object:
        attack = fab(network, **settings)
        attack.target_class = 2
        return attack.attack_single_run(x, y, is_targeted=True)

    yield Pairing("pyautoattack", "APGD-CE", _theirs(them, one_run), _ours(them, "apgd-ce", steps))
    yield Pairing("pyautoattack", "FAB-T", _theirs(them, one_target), _ours(them, "fab-t", steps))


def _torchattacks(them: ModelPair, steps: int) -> Iterator[Pairing]:
    from reference.peers import peer

    pgd = peer("torchattacks").PGDL2
    theirs = _theirs(them, lambda network, x, y: pgd(network, eps=EPS, alpha=EPS / 10, steps=steps)(x, y))
    yield Pairing("torchattacks", "PGD", theirs, _ours(them, "pgd", steps))


def _foolbox_with_pytorch(them: ModelPair, steps: int) -> Iterator[Pairing]:
    from reference.peers import peer

    foolbox = peer("foolbox")
    network = foolbox.PyTorchModel(them.twin, bounds=(0, 1), device=them.tensors.device)
    attack = foolbox.attacks.L2ProjectedGradientDescentAttack(steps=steps)
    theirs = _theirs(them, lambda _, x, y: attack.run(network, x, y, epsilon=EPS))
    yield Pairing("foolbox, PyTorch", "PGD", theirs, _ours(them, "pgd", steps))


def _foolbox_with_jax(them: ModelPair, steps: int) -> Iterator[Pairing]:
    from reference.peers import peer

    foolbox = peer("foolbox")
    images, labels = jax.numpy.asarray(them.images), jax.numpy.asarray(them.labels)

    def on(network: Callable[..., Any], attack: Any, n_steps: int, **settings: float) -> Work:
        model = foolbox.JAXModel(network, bounds=(0, 1))
        return Work(lambda: jax.block_until_ready(attack.run(model, images, labels, **settings)), n_steps)

    pgd, ddn = foolbox.attacks.L2ProjectedGradientDescentAttack, foolbox.attacks.DDNAttack
    jitted = jax.jit(them.classifier.__call__)
    theirs = on(jitted, pgd(steps=steps), steps, epsilon=EPS)
    yield Pairing("foolbox, JAX, jitted network", "PGD", theirs, _ours(them, "pgd", steps))
    yield Pairing(
        "foolbox, JAX, jitted network", "DDN", on(jitted, ddn(steps=steps), steps), _our_search(them, DDN(steps=steps))
    )
    theirs = on(them.classifier, pgd(steps=_EAGER_STEPS), _EAGER_STEPS, epsilon=EPS)
    yield Pairing("foolbox, JAX", "PGD", theirs, _ours(them, "pgd", steps))


if __name__ == "__main__":
    main()
