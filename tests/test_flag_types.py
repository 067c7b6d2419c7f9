import pytest
from absl import flags

from advx_jax.cli import flag_types
from advx_jax.cli.flag_types import check_eps_within_box, distinct_indices
from advx_jax.errors import UserError
from advx_jax.reports.console import length


@pytest.fixture
def parse(monkeypatch):
    """Parse a command line with a flag of each kind, apart from the flags of the commands."""
    values = flags.FlagValues()
    define = flags.DEFINE
    monkeypatch.setattr(flags, "DEFINE", lambda *rest, **named: define(*rest, flag_values=values, **named))
    flag_types.define_length("eps", 0.1, "A length.")
    flag_types.define_momentum("momentum", 0.9, "Momentum.")
    flag_types.define_whole("steps", None, "A number.")
    flag_types.define_whole("seed", 0, "A seed.", least=0, most=2**32 - 1)
    flag_types.define_norm("norm", "L2", "A norm.")
    flag_types.define_indices("indices", "Indices.")
    flag_types.define_shard("shard", "A part.")

    def parse(*arguments):
        values.unparse_flags()
        values(["command", *arguments])
        return values

    return parse


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--eps=8/255", 8 / 255),
        ("--eps=0.5/255", 0.5 / 255),
        ("--eps= 8 / 255 ", 8 / 255),
        ("--eps=1e-3", 0.001),
        ("--eps=20", 20.0),
        ("--momentum=0", 0.0),
        ("--momentum=9/10", 0.9),
        ("--steps=1e3", 1000),
        ("--steps=12", 12),
        ("--seed=4294967295", 4294967295),
        ("--norm=l2", "L2"),
        ("--norm=inf", "Linf"),
        ("--norm=LINF", "Linf"),
        ("--indices=3", [range(3, 4)]),
        ("--indices=0-9, 15", [range(10), range(15, 16)]),
        ("--shard=2/4", (1, 4)),
        ("--shard=02/04", (1, 4)),
    ],
)
def test_a_value_is_read(parse, argument, value):
    found = getattr(parse(argument), argument[2:].split("=")[0])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "8/0", "x", "", "1/2/3", "-8/255", "1e400", "1e400/1e400"])
def test_a_wrong_length_is_refused_by_its_flag(parse, value):
    with pytest.raises(flags.IllegalFlagValueError, match=rf"flag --eps={value}: expected a number or fraction"):
        parse(f"--eps={value}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--momentum=1", "flag --momentum=1: expected a number of at least 0 and below 1, got 1"),
        ("--momentum=-0.1", "flag --momentum=-0.1: expected a number of at least 0"),
        ("--momentum=nan", "flag --momentum=nan: expected a number of at least 0"),
        ("--steps=0", "flag --steps=0: expected a whole number of at least 1, got 0"),
        ("--steps=1.5", "flag --steps=1.5: expected a whole number, got '1.5'"),
        ("--steps=1e300", "flag --steps=1e300: expected a whole number of at most 2147483647"),
        ("--steps=inf", "flag --steps=inf: expected a whole number"),
        ("--seed=-1", "flag --seed=-1: expected a whole number of at least 0"),
        ("--seed=4294967296", "of at most 4294967295"),
        ("--norm=L1", "flag --norm=L1: expected L2 or Linf as the norm, got 'L1'"),
        ("--norm=", "flag --norm=: expected L2 or Linf"),
        ("--indices=", "expected whole numbers or ranges of them (3,5 or 0-9,15), got ''"),
        ("--indices=-1", "got '-1'"),
        ("--indices=3,", "got '3,'"),
        ("--indices=9-0", "got '9-0'"),
        ("--indices=1.0", "got '1.0'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_flag(parse, argument, message):
    with pytest.raises(flags.IllegalFlagValueError) as caught:
        parse(argument)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_belongs_to_the_module_that_has_the_flag(parse):
    values = parse()
    assert {flag.name for flag in values.get_key_flags_for_module(__name__)} == {
        "eps",
        "momentum",
        "steps",
        "seed",
        "norm",
        "indices",
        "shard",
    }
    assert "(a number or fraction (0.03, 8/255))" in values.get_help()
    assert "(default: '0.1')" in values.get_help()


def test_indices_count_once_and_say_which_came_twice():
    assert distinct_indices([range(3, 6), range(4, 5), range(1)], 6) == ([3, 4, 5, 0], [4])
    with pytest.raises(UserError, match="expected --indices from 0 to 5, got 6"):
        distinct_indices([range(3), range(4, 10**15)], 6)


@pytest.mark.parametrize(
    ("eps", "largest", "hint"),
    [
        (8.0, 1.0, "got 8; did you mean --eps=8/255?"),
        (1.0, 1.0, "--eps=1/255"),
        (128.0, 55.4, "--eps=128/255"),
        (1000.0, 1.0, "got 1000"),
    ],
)
def test_an_eps_that_spans_the_box_is_asked_about(eps, largest, hint):
    with pytest.raises(UserError) as caught:
        check_eps_within_box(eps, largest, "Linf")
    assert hint in str(caught.value)
    assert ("did you mean" in str(caught.value)) == (eps / 255 < largest)
    check_eps_within_box(largest * 0.999, largest, "Linf")


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (0.5 / 255, "0.5/255"), (0.2, "0.2"), (1.0, "1"), (0.0314, "0.0314"), (1e-9, "1e-09")],
)
def test_a_length_is_shown_as_people_write_it(value, text):
    assert length(value) == text
