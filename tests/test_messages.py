import pytest

from advx_jax.errors import UserError
from advx_jax.messages import one_line, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain text, ρ ≤ ∞", "plain text, ρ ≤ ∞"),
        ("a\n  b\r\n\tc", "a b c"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("safe\u202egnp", r"safe\u202egnp"),
        ("a\0b\x7f", r"a\x00b\x7f"),
        ("\ud800", r"\ud800"),
    ],
)
def test_one_line_shows_what_a_terminal_would_act_on(text, line):
    assert one_line(text) == line
    assert str(UserError(text)) == line


def test_a_long_line_keeps_its_beginning_and_its_end():
    line = one_line("cannot read " + "x" * 100_000 + ": no such file")
    assert line.startswith("cannot read xxx")
    assert line.endswith("xxx: no such file")
    assert len(line) < 2100


@pytest.mark.parametrize(
    ("value", "description"),
    [
        ("a\x1b", r"'a\x1b'"),
        ("x" * 5000, "'" + "x" * 60 + r"\u2026'"),
        (2**70, "a value of type int"),
        ([[]], "a value of type list"),
        (0.5, "0.5"),
        (None, "None"),
    ],
)
def test_values_are_described_briefly(value, description):
    assert shown(value) == description
