"""Attacks by name, and a person's own by the place of their code: what flags say, and what the attack says itself."""

import sys

import jax.numpy as jnp
import pytest

from advx_jax.attacks import APGD, FMN, PGD, AutoAttack, FirstSuccess, Restarted, SmallestSuccess
from advx_jax.attacks.named import (
    FIXED_EPSILON,
    MINIMUM_NORM,
    autoattack_named,
    find_attack,
    fixed_epsilon_attack,
    fixed_epsilon_members,
    minimum_norm_attack,
)
from advx_jax.attacks.projections import NORMS
from advx_jax.attacks.threat_model import ThreatModel, threat_model
from advx_jax.errors import UserError

OWN = """
import functools
import jax.numpy as jnp
from flax import struct
from advx_jax.attacks import APGD, FAB, FMN, PGD, FirstSuccess, NoBetterThanRandom, Restarted

INSTANCE = APGD(eps=jnp.float32(0.25), norm="Linf", steps=7, stay_in_range=False, loss="dlr")
BOTH = FirstSuccess(attacks=(PGD(eps=0.5, norm="L2", steps=3), APGD(eps=0.5, norm="L2", steps=4)))
AGAIN = Restarted(attack=PGD(eps=0.5, norm="L2", steps=3), restarts=4)
SMALL = FMN(steps=9)
APART = FirstSuccess(attacks=(PGD(eps=0.5, norm="L2"), APGD(eps=0.25, norm="L2")))
CHANCE = PGD(eps=0.5, norm="L2", criterion=NoBetterThanRandom())
FAR = FAB(eps=float("inf"), norm="L2")
TWICE = FirstSuccess(attacks=(PGD(eps=0.5, norm="L2"), PGD(eps=0.5, norm="L2", steps=3)))
NUMBER = 7


@struct.dataclass(kw_only=True)
class Own(PGD):
    eps: float = 0.125
    norm: str = struct.field(pytree_node=False, default="Linf")


def make(eps, steps=2):
    return PGD(eps=eps, norm="L2", steps=steps)
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A module in the working folder, which is not on Python's path: so it is for a console script."""
    (tmp_path / "own_attacks.py").write_text(OWN)
    (tmp_path / "broken_attacks.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    for name in ("own_attacks", "broken_attacks"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        # As it is, where nothing is said.
        ("INSTANCE", {}, (0.25, "Linf", False)),
        ("BOTH", {}, (0.5, "L2", True)),
        ("AGAIN", {}, (0.5, "L2", True)),
        ("Own", {}, (0.125, "Linf", True)),
        # What is said holds, and nothing else changes.
        ("INSTANCE", {"eps": 0.5}, (0.5, "Linf", False)),
        ("INSTANCE", {"eps": 2.0, "norm": "L2", "stay_in_range": True}, (2.0, "L2", True)),
        ("BOTH", {"eps": 0.25}, (0.25, "L2", True)),
        ("AGAIN", {"eps": 0.25, "norm": "Linf"}, (0.25, "Linf", True)),
        ("Own", {"eps": 0.25}, (0.25, "Linf", True)),
        ("Own", {"norm": "L2", "stay_in_range": False}, (0.125, "L2", False)),
        ("make", {"eps": 0.25}, (0.25, "L2", True)),
    ],
)
def test_what_is_used_is_what_is_told(name, given, expected):
    attack = fixed_epsilon_attack(f"own_attacks:{name}", **given)
    assert threat_model([attack]) == ThreatModel(*expected)
    if name == "INSTANCE":
        assert (attack.steps, attack.loss) == (7, "dlr")
    if name == "AGAIN":
        assert attack.restarts == 4


@pytest.mark.parametrize("name", FIXED_EPSILON)
def test_named_attacks_are_of_the_ball_that_is_asked_for(name):
    assert threat_model([fixed_epsilon_attack(name, eps=0.25)]) == ThreatModel(0.25, "L2", True)
    asked = {"eps": 0.5, "norm": "Linf", "stay_in_range": False}
    assert threat_model([fixed_epsilon_attack(name.upper(), **asked)]) == ThreatModel(0.5, "Linf", False)


@pytest.mark.parametrize(
    ("threat", "expected"),
    [
        (ThreatModel(0.5, "L2", True), 0.5 / 8),
        (ThreatModel(0.5, "Linf", True), 0.5),
        # Nine values that change by 1; half a value, if that is all; and all of it in one, where nothing bounds it.
        (ThreatModel(9.0, "L1", True), 3 / 8),
        (ThreatModel(0.5, "L1", True), 0.5 / 8),
        (ThreatModel(9.0, "L1", False), 9 / 8),
    ],
)
def test_a_ball_bounds_the_rms(threat, expected):
    assert threat.largest_rms(64) == pytest.approx(expected)


def test_autoattack_plus_is_that_of_its_authors():
    name = autoattack_named("AutoAttack", "plus")
    members = fixed_epsilon_members(name, eps=0.25)
    assert [member.name for member in members] == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    # Ten classes: five points for each loss, and nine targets.
    assert [len(member.parts(10)) for member in members] == [5, 5, 1, 1, 9, 9]
    assert autoattack_named("Square", "standard") == "square"
    assert autoattack_named("own_attacks:BOTH", "standard") == "own_attacks:BOTH"
    with pytest.raises(UserError, match="expected --version=plus with --attack=autoattack only, got it with square"):
        autoattack_named("square", "plus")


def test_members_are_run_as_often_and_as_long_as_asked():
    members = fixed_epsilon_members("own_attacks:BOTH", steps=9, restarts=2, eps=0.25)
    assert [(member.name, member.restarts, member.attack.steps) for member in members] == [
        ("pgd", 2, 9),
        ("apgd-ce", 2, 9),
    ]
    assert threat_model(members) == ThreatModel(0.25, "L2", True)
    (again,) = fixed_epsilon_members("own_attacks:AGAIN")
    assert (again.restarts, again.attack.steps) == (4, 3)
    (fewer,) = fixed_epsilon_members("own_attacks:AGAIN", restarts=1)
    assert (fewer.restarts, fewer.attack.steps) == (1, 3)
    assert [member.name for member in fixed_epsilon_members("autoattack", steps=2, eps=0.5)] == [
        *("apgd-ce", "apgd-t", "fab-t", "square"),
    ]
    with pytest.raises(UserError, match="expected attacks of different names in own_attacks:TWICE, got pgd, pgd"):
        fixed_epsilon_members("own_attacks:TWICE")
    with pytest.raises(UserError, match="expected --restarts=1 for fab-t, which draws nothing at random, got 2"):
        fixed_epsilon_members("fab-t", restarts=2, eps=0.5)


@pytest.mark.parametrize("name", MINIMUM_NORM)
def test_minimum_norm_attacks_have_names(name):
    assert minimum_norm_attack(name) is MINIMUM_NORM[name]


def test_a_minimum_norm_attack_of_ones_own():
    assert minimum_norm_attack("own_attacks:SMALL").steps == 9
    # A class that is made without arguments.
    assert minimum_norm_attack("own_attacks:FMN") == FMN()
    assert minimum_norm_attack("own_attacks:SMALL", "l1") == FMN(steps=9, norm="L1")


def test_minimum_norm_attacks_are_of_the_norm_that_is_asked_for():
    assert minimum_norm_attack("fmn", 0) == FMN(norm="L0")
    assert minimum_norm_attack("fmn", "inf") == FMN(norm="Linf")
    for norm in NORMS:
        best = minimum_norm_attack("best", norm)
        assert (best.name, best.n_steps) == ("best", 200)
        assert {part.attack.norm for part in best.parts()} == {norm}
    assert minimum_norm_attack("best", "L2") is MINIMUM_NORM["best"]
    assert minimum_norm_attack("sigma-zero", "L0") is minimum_norm_attack("sigma-zero")
    with pytest.raises(UserError, match="expected L0 as the norm of sigma-zero, got 'L2'"):
        minimum_norm_attack("sigma-zero", "L2")
    for name in ("published", "ddn"):
        assert minimum_norm_attack(name, "l2") is MINIMUM_NORM[name]
        with pytest.raises(UserError, match=f"expected L2 as the norm of {name}, got 'Linf'"):
            minimum_norm_attack(name, "Linf")
    with pytest.raises(UserError, match="expected L0, L1, L2 or Linf as the norm of fmn, got 'max'"):
        minimum_norm_attack("fmn", "max")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("apgd-ce", {}, "expected --eps, for instance --norm=L2 --eps=0.5 or --norm=Linf --eps=8/255, got none"),
        ("own_attacks:make", {}, "expected --eps, for instance"),
        (
            "own_attacks:make",
            {"eps": 0.5, "norm": "Linf"},
            "cannot make an attack of own_attacks:make with eps, ",
        ),
        ("own_attacks:SMALL", {"eps": 0.5}, r"expected a setting of the attack fmn \(criterion, .*\), got eps"),
        ("own_attacks:NUMBER", {"eps": 0.5}, "expected own_attacks:NUMBER to be an advx_jax.attacks.Attack, got int"),
        ("own_attacks:nothing", {}, "expected own_attacks to have an attack 'nothing', got none of that name"),
        ("no_such_module:name", {}, "expected no_such_module of --attack=.* that can be imported, got ModuleNotFound"),
        ("broken_attacks:name", {}, "that can be imported, got ZeroDivisionError: division by zero"),
        ("fgsm", {}, r"expected an attack \(autoattack, pgd, .*\) or package.module:name, got 'fgsm'"),
    ],
)
def test_what_is_no_attack_of_that_kind_is_refused_in_one_line(name, given, message):
    with pytest.raises(UserError, match=message) as caught:
        fixed_epsilon_attack(name, **given)
    assert "\n" not in str(caught.value)


def test_robust_accuracy_is_told_until_misclassified_only():
    with pytest.raises(UserError, match=r"^expected an attack until misclassified, got own_attacks:CHANCE, whose crit"):
        fixed_epsilon_members("own_attacks:CHANCE")


def test_attacks_without_one_threat_model_have_none():
    with pytest.raises(UserError, match="expected an attack with a fixed epsilon, got fab with an infinite one"):
        threat_model([fixed_epsilon_attack("own_attacks:FAR")])
    with pytest.raises(UserError, match=r"expected one eps for all attacks, got 0\.5, 0\.25"):
        threat_model([find_attack("own_attacks:APART", {})])
    with pytest.raises(UserError, match="expected an attack with a fixed epsilon, got fmn, which has no eps"):
        threat_model([PGD(eps=0.5, norm="L2"), FMN()])


def test_settings_reach_every_part():
    ball = {"eps": 0.5, "norm": "L2"}
    both = FirstSuccess(attacks=(PGD(**ball), APGD(**ball)))
    changed = Restarted(attack=both, restarts=2).with_settings(steps=3, restarts=5)
    assert changed.restarts == 5
    assert [part.attack.steps for part in changed.parts()] == [3] * 10
    assert AutoAttack(**ball).with_settings(eps=0.25).parts(10)[0].attack.eps == 0.25
    smaller = SmallestSuccess(attacks=(FMN(steps=30), FMN(steps=10))).with_settings(steps=8, norm="Linf", title="two")
    assert (smaller.name, [attack.steps for attack in smaller.attacks]) == ("two", [6, 2])
    assert {attack.norm for attack in smaller.attacks} == {"Linf"}
    with pytest.raises(UserError, match=r"expected a setting of the attack autoattack .*, got steps"):
        AutoAttack(**ball).with_settings(steps=3)
    with pytest.raises(UserError, match="expected at least 1 step, got 0"):
        both.with_settings(steps=0)


def test_settings_of_ensembles_are_those_of_their_parts():
    ball = {"eps": jnp.float32(0.5), "norm": "L2"}
    settings = FirstSuccess(attacks=(PGD(**ball, steps=3), Restarted(attack=APGD(**ball), restarts=2))).settings()
    assert settings["attack"] == "firstsuccess"
    assert settings["steps"] == 203
    assert (settings["1.attack"], settings["1.steps"], settings["1.eps"]) == ("pgd", 3, 0.5)
    assert (settings["2.attack"], settings["2.restarts"], settings["2.loss"]) == ("apgd-ce", 2, "cross_entropy")
