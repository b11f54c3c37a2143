"""What an iterator needs to know of its dataset, and what it says of itself."""

from __future__ import annotations

from typing import NamedTuple

from tf_toolkit.pipe_mode.channel import Channel

FORMATS = ("RecordIO", "TFRecord", "TextLine")


class Source(NamedTuple):
    """A channel, and how it is read."""

    channel: Channel
    record_format: str
    verify: bool
    may_skip: int
    benchmark: bool
    interval: int


def name_of(source: Source, epoch: int) -> str:
    """As messages begin."""
    return f"channel {source.channel.name!r}, epoch {epoch}"


def print_totals(name: str, seconds: float, size: int) -> None:
    """What `benchmark` prints at the end of a pass."""
    rate = size / seconds / 1e9 if seconds else 0.0
    print(f"PipeModeDataset: {name}: {seconds * 1e3:.0f} ms, {size} bytes, {rate:.3f} GB/s", flush=True)
