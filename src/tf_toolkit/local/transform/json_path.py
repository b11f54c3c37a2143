"""JSONPath as the platform's batch transform has it, which is little of what else goes by that name.

"Supported JSONPath Operators" in
https://docs.aws.amazon.com/sagemaker/latest/dg/batch-transform-data-processing.html. A slice ends before its end, as
everywhere in JSONPath. What is selected keeps its form: several names make an object, several places a list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar, Union

from tf_toolkit.local.job import UsageError

_Value = TypeVar("_Value")
# Names of an object, places in a list, or None for all of either.
_Names = tuple[str, ...]
_Places = tuple[Union[int, slice], ...]
_Step = Union[tuple[_Names, None], tuple[None, _Places], tuple[None, None]]

_PLACE = r"(?:-?[0-9]+|(?:-?[0-9]+)?\s*:\s*(?:-?[0-9]+)?)"
_NAME = r"(?:'[^']*'|\"[^\"]*\")"
_STEP = re.compile(
    rf"\.?\[\s*(?P<names>{_NAME}(?:\s*,\s*{_NAME})*)\s*\]"
    rf"|\[\s*(?P<places>{_PLACE}(?:\s*,\s*{_PLACE})*)\s*\]"
    r"|(?P<all>\.\*|\[\s*\*\s*\])"
    r"|\.(?P<name>[^\s.,:*'\"$@?()\[\]]+)"
)


class NotSelected(Exception):
    """A record has nothing where the path leads."""


class JsonPath:
    """A path, such as ``$.features``, ``$[1:]`` or ``$['id','SageMakerOutput']``."""

    def __init__(self, option: str, text: str) -> None:
        """Raises UsageError, which names the option that the path was given with."""
        self.text = text
        self._option = option
        self._steps: list[_Step] = []
        at = 1 if text.startswith("$") else -1
        while 0 <= at < len(text):
            found = _STEP.match(text, at)
            if found is None or self._ends():
                at = -1
                break
            self._steps.append(_step(found))
            at = found.end()
        if at < 0:
            raise UsageError(
                f"{option} {text!r} is no JSONPath of the platform's; expected such as $, $.features, "
                "$['id','features'] at the end, $[0], $[1,-1], $[1:], or * in place of a name or a number"
            )

    @property
    def is_all(self) -> bool:
        """Whether it is ``$``, which selects a record as it is."""
        return not self._steps

    def check_columns(self) -> None:
        """Raises UsageError where it is not for the columns of a row."""
        if len(self._steps) > 1 or any(names is not None for names, _ in self._steps):
            raise UsageError(
                f"{self._option} {self.text!r}: a line of CSV has columns and no names; expected such as $[0], $[1:]"
            )

    def select(self, value: Any) -> Any:
        """What it leads to in a value of JSON. Raises NotSelected."""
        return self._select(value, self._steps)

    def columns(self, row: list[bytes]) -> list[bytes]:
        """The columns of a row. Raises NotSelected."""
        places = self._steps[0][1] if self._steps else None
        return row if places is None else [column for place in places for column in self._at(row, place)]

    def _ends(self) -> bool:
        """Whether nothing can follow: an object of several names is never looked into."""
        names = self._steps[-1][0] if self._steps else None
        return names is not None and len(names) > 1

    def _select(self, value: Any, steps: Sequence[_Step]) -> Any:
        if not steps:
            return value
        (names, places), rest = steps[0], steps[1:]
        if names is not None:
            found = {name: self._named(value, name) for name in names}
            return self._select(found[names[0]], rest) if len(names) == 1 else found
        if places is not None:
            if not isinstance(value, list):
                raise NotSelected(f"{self.text} needs a list")
            items = [item for place in places for item in self._at(value, place)]
            if len(places) == 1 and isinstance(places[0], int):
                return self._select(items[0], rest)
        elif isinstance(value, (dict, list)):
            items = list(value.values()) if isinstance(value, dict) else value
        else:
            raise NotSelected(f"{self.text} needs an object or a list")
        return [self._select(item, rest) for item in items]

    def _named(self, value: Any, name: str) -> Any:
        if not isinstance(value, dict) or name not in value:
            raise NotSelected(f"{self.text} finds no {name!r}")
        return value[name]

    def _at(self, values: list[_Value], place: int | slice) -> list[_Value]:
        if isinstance(place, int):
            if not -len(values) <= place < len(values):
                raise NotSelected(f"{self.text} is beyond the {len(values)} values that there are")
            return [values[place]]
        if not values[place]:
            raise NotSelected(f"{self.text} selects none of the {len(values)} values that there are")
        return values[place]


def _step(found: re.Match[str]) -> _Step:
    if found["name"] is not None:
        return (found["name"],), None
    if found["names"] is not None:
        return tuple(name[1:-1] for name in re.findall(_NAME, found["names"])), None
    if found["places"] is not None:
        return None, tuple(_place(text) for text in found["places"].split(","))
    return None, None


def _place(text: str) -> int | slice:
    first, colon, last = (part.strip() for part in text.partition(":"))
    return slice(int(first) if first else None, int(last) if last else None) if colon else int(first)
