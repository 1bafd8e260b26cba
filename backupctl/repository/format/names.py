"""Names inside trees: bytes, written as Go's `strconv.Quote` would, without the outer quotes."""

from __future__ import annotations

import re

from backupctl.repository.format import FormatError
from backupctl.repository.format.printable import is_printable

_PLAIN = re.compile(r"[ !#-\[\]-~]*", re.ASCII)
_SHOWN = re.compile(r"[ -~]*", re.ASCII)
_SHORT = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}
_UNSHORT = {letter: bytes((code,)) for code, letter in _SHORT.items()}
_TOKEN = re.compile(
    r'([^\\"\n]+)|\\([abfnrtv"\\])|\\x([0-9a-fA-F]{2})|\\([0-7]{3})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})', re.ASCII
)


def _escape(character: str) -> str:
    code = ord(character)
    if code in _SHORT:
        return "\\" + _SHORT[code]
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if is_printable(code):
        return character
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_name(name: bytes) -> str:
    text = name.decode("utf-8", "surrogateescape")
    return text if _PLAIN.fullmatch(text) else "".join(map(_escape, text))


def unquote_name(text: str) -> bytes:
    """The inverse of `quote_name`; accepts whatever Go's `Unquote` accepts. Raises FormatError."""
    if _PLAIN.fullmatch(text):
        return text.encode()
    parts: list[bytes] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise FormatError(f"a name with a bad escape at character {position}: {text[:80]!r}")
        literal, short, byte, octal, *runes = match.groups()
        rune = next((int(digits, 16) for digits in runes if digits), -1)
        if literal:
            parts.append(literal.encode())
        elif short:
            parts.append(_UNSHORT[short])
        elif byte:
            parts.append(bytes.fromhex(byte))
        elif octal and int(octal, 8) < 256:
            parts.append(bytes((int(octal, 8),)))
        elif 0 <= rune < 0xD800 or 0xE000 <= rune <= 0x10FFFF:
            parts.append(chr(rune).encode())
        else:
            raise FormatError(f"a name with an impossible character at {position}: {text[:80]!r}")
        position = match.end()
    return b"".join(parts)


def display_name(name: bytes) -> str:
    """A name or path for people: bytes that are not UTF-8 and control characters appear escaped."""
    text = name.decode("utf-8", "surrogateescape")
    if _SHOWN.fullmatch(text):
        return text
    return "".join(_escape(character) if character not in '"\\' else character for character in text)
