"""JSON text into values as TensorFlow Serving reads it: NaN and the infinities are numbers, and what is wrong with the
text is said in its parser's words, which users search for.

What differs: the last of several equal keys counts, and text that is not UTF-8 is refused.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from tf_toolkit.serving.errors import RequestError, invalid

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A string, so that nothing is looked for inside it (of one without an end, all that is left), or a number that only
# this dialect has. Every branch begins with a plain character, which makes the search fast. The group is a string's
# end, and nothing at all for a number.
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*("?)'
_NOT_FINITE = re.compile(
    _STRING + rb"|-NaN(?![\w.+-])|NaN(?![\w.+-])|-Inf(?:inity)?(?![\w.+-])|Inf(?:inity)?(?![\w.+-])", re.DOTALL
)
_STRINGS = re.compile(_STRING, re.DOTALL)
_BEFORE_VALUE = b"[{,: \t\r\n"
_BRACKETS = re.compile(rb"[\[\]{}]")
_LONGEST_INTEGER = 20  # characters: of 64 bits, with a sign
_LONGEST_SHOWN = 200
_INVALID_VALUE = "Invalid value."
_MISSING_NAME = "Missing a name for object member."
_MISSING_COMMA = {
    b"[": "Missing a comma or ] after an array element.",
    b"{": "Missing a comma or } after an object member.",
}
_MISSING_QUOTE = "Missing a closing quotation mark in string."
_BAD_ENCODING = "Invalid encoding in string."
_BAD_SURROGATE = "The surrogate pair in string is invalid."
# What orjson says, in RapidJSON's words.
_REASONS = {
    "input data is empty": "The document is empty.",
    "unexpected content after document": "The document root must not be followed by other values.",
    "unexpected character, expected ',' or ']'": _MISSING_COMMA[b"["],
    "unexpected character, expected ',' or '}'": _MISSING_COMMA[b"{"],
    "unexpected character, expected ':' after key": "Missing a colon after a name of object member.",
    "unexpected character, expected a string key": _MISSING_NAME,
    "unexpected character, expected a JSON value": _INVALID_VALUE,
    "invalid escaped sequence in string": "Invalid escape character in string.",
    "no low surrogate in string": _BAD_SURROGATE,
    "invalid low surrogate in string": _BAD_SURROGATE,
    "invalid high surrogate in string": _BAD_SURROGATE,
    "unexpected control character in string": _BAD_ENCODING,
    "no digit after sign": _INVALID_VALUE,
    "no digit after decimal point": "Miss fraction part in number.",
    "no digit after exponent sign": "Miss exponent in number.",
    "number is infinity when parsed as double": "Number too big to be stored in double.",
    "number with leading zero is not allowed": _INVALID_VALUE,
}


def parse(body: bytes) -> Any:
    """The value of ``body``; whole numbers beyond 64 bits are floats. Raises RequestError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # The mark is only looked for now, for nearly no text has one.
        return _parse_dialect(body[len(_BYTE_ORDER_MARK) :] if body.startswith(_BYTE_ORDER_MARK) else body)


def shown(value: object) -> str:
    """``value`` as messages show it: JSON, cut where it is long."""
    if isinstance(value, float):
        return json.dumps(value)
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        # Nested deeper than it writes.
        text = "{...}" if isinstance(value, dict) else "[...]"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _parse_dialect(body: bytes) -> Any:
    """As ``parse``. What orjson does not know is replaced by numbers of the same length, so that places stay right."""
    has_words = b"NaN" in body or b"Inf" in body
    plain = _NOT_FINITE.sub(_as_plain_number, body) if has_words else body
    try:
        value = orjson.loads(plain)
    except orjson.JSONDecodeError as error:
        raise _syntax_error(plain, error) from None
    if plain == body:
        return value
    text = _NOT_FINITE.sub(_as_python, body).decode()
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise invalid("JSON Parse error: nested too deep for a document with NaN or Infinity") from None


def _is_value(match: re.Match[bytes]) -> bool:
    start = match.start()
    return match[1] is None and match.string[start - 1 : start] in _BEFORE_VALUE


def _as_plain_number(match: re.Match[bytes]) -> bytes:
    if not _is_value(match):
        return match[0]
    return (b"-0." if match[0].startswith(b"-") else b"0.").ljust(len(match[0]), b"0")


def _as_python(match: re.Match[bytes]) -> bytes:
    if not _is_value(match):
        return match[0]
    if match[0].endswith(b"NaN"):
        return b"NaN"
    return b"-Infinity" if match[0].startswith(b"-") else b"Infinity"


def _integer(digits: str) -> int | float:
    if len(digits) > _LONGEST_INTEGER:
        return float(digits)
    number = int(digits)
    return number if -(1 << 63) <= number < 1 << 64 else float(number)


def _syntax_error(body: bytes, error: orjson.JSONDecodeError) -> RequestError:
    if not body:
        return invalid("JSON Parse error: The document is empty")
    try:
        offset = len(body.decode()[: error.pos].encode())
    except UnicodeDecodeError as undecodable:
        return invalid(f"JSON Parse error: {_BAD_ENCODING} at offset: {undecodable.start}")
    if error.msg == "failed to allocate memory":
        # Of a text with more that begins than could end in it, no more is looked at.
        reason, offset = _reason_of_end(body), len(body)
    elif error.msg == "unexpected end of data":
        reason = _reason_of_end(body)
    elif error.msg == "trailing comma is not allowed":
        rest = body[offset + 1 :].lstrip()
        reason = _MISSING_NAME if rest.startswith(b"}") else _INVALID_VALUE
        offset = len(body) - len(rest)
    elif error.msg.startswith("invalid literal"):
        reason = _INVALID_VALUE
    else:
        reason = _REASONS.get(error.msg, error.msg)
    return invalid(f"JSON Parse error: {reason} at offset: {offset}")


def _reason_of_end(body: bytes) -> str:
    """What a text that is cut short lacks first."""
    bare = _STRINGS.sub(lambda string: b"s" if string[1] else b'"', body).rstrip()
    if b'"' in bare:
        return _MISSING_QUOTE
    depth = 0
    bracket = b""
    for found in reversed(_BRACKETS.findall(bare)):
        depth += 1 if found in b"]}" else -1
        if depth < 0:
            bracket = found
            break
    if bracket == b"{" and bare[-1:] in b"{,":
        return _MISSING_NAME
    if bare[-1:] in b"[,:" or not bracket:
        return _INVALID_VALUE
    return _MISSING_COMMA[bracket]
