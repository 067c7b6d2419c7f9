"""What is printed on a terminal, or into a pipe, that may not have all our letters."""

import codecs
import contextlib
import io
import sys

_SPELT = {
    **{"ρ": "rho", "ψ": "psi", "δ": "delta", "ζ": "zeta", "∞": "inf", "√": "sqrt", "∂": "d", "π": "pi", "λ": "lambda"},
    **{"·": "*", "×": "x", "²": "^2", "₀": "0", "½": "1/2", "…": "...", "–": "-", "—": "-", "≤": "<=", "≥": ">="},
    **{"≠": "!=", "±": "+-", "←": "<-", "→": "->"},
}
_SPELLING = "advx_jax.spelling"


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = ""
    for letter in error.object[error.start : error.end]:
        escaped = letter.encode("ascii", "backslashreplace").decode("ascii")
        text += _SPELT.get(letter, escaped)
    return text, error.end


def spell_out_what_cannot_be_shown() -> None:
    """Let standard output and error take any text, whatever their encoding.

    Greek letters and signs become words (rho, inf), anything else an escape: bytes of a file's name that are no text
    too, which no encoding has.
    """
    codecs.register_error(_SPELLING, _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):  # closed
                stream.reconfigure(errors=_SPELLING)
