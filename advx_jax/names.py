"""File names made of words that come from outside: names of networks, of classes, and of a person's own images."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

# Two such names, a number and a confidence fit into the 255 bytes that file systems allow.
_LONGEST = 80
# Letters that nobody sees.
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
# Devices on Windows, whatever follows behind a dot.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin_|conout_|(?:com|lpt)[0-9¹²³])(?:\.|$)", re.IGNORECASE)


def safe_name(text: str) -> str:
    """Turn any text into a part of a file name that is valid, visible and inside its folder.

    Letters and digits of any script, `_`, `-` and inner dots stay; everything else becomes `_`.
    What is too long is cut and gets a digest of the whole instead. Names that are already safe,
    such as the CIFAR-10 classes, do not change. The result is safe to print too.
    """
    safe = re.sub(rf"[^\w.-]|[{_BLANK_LETTERS}]", "_", unicodedata.normalize("NFC", text))
    safe = safe.lstrip(".-").rstrip(".") or "unnamed"
    if _DEVICES.match(safe):
        safe = f"_{safe}"
    encoded = safe.encode()
    if len(encoded) <= _LONGEST:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return encoded[: _LONGEST - len(digest) - 1].decode(errors="ignore") + "_" + digest


def safe_class_name(text: str) -> str:
    """`safe_name` without `-`, so that in `{name}-{class}` the last `-` is always the joint."""
    return safe_name(text.replace("-", "_"))


def unique_names(names: Sequence[str]) -> list[str]:
    """Make names differ in their safe form, also where upper and lower case are the same.

    Args:
        names: for instance the stems of image files from several folders.

    Returns:
        The names in their order; from the second one on, one that would share a folder with an
        earlier one ends in `-2`, `-3`, ….
    """
    unique: list[str] = []
    taken: set[str] = set()
    for name in names:
        candidate, count = name, 1
        while safe_name(candidate).casefold() in taken:
            count += 1
            candidate = f"{name}-{count}"
        taken.add(safe_name(candidate).casefold())
        unique.append(candidate)
    return unique
