"""Text of others, such as names of files, for a terminal or a log: one line, and nothing that a terminal obeys."""

from __future__ import annotations

import unicodedata

_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, what is no character, ends of lines
_TURNS = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the writing direction


def printable(text: str) -> str:
    """The text with escapes, as Python writes them, for what is not to be shown as it is."""
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) in _NOT_SHOWN or character in _TURNS:
        return character.encode("unicode_escape").decode()
    return character
