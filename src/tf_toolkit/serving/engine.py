"""What runs a model: a loaded SavedModel, as the rest of the server sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tf_toolkit.serving.signature import Signature

# numpy.ndarray; of bytes objects for strings.
Array = Any


class Engine(Protocol):
    """One version of a model, ready to run; from any thread."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """By their names."""

    def run(
        self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """What the model makes of ``inputs``, by the names of the signature; only ``outputs`` of it, where given.

        Arrays have the signature's types. Raises ModelRunError.
        """

    def close(self) -> None:
        """Give the memory back. Nothing runs any more."""
