"""A channel in Pipe mode as the platform has it: its configuration, and a FIFO for each pass, which a thread writes."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tf_toolkit.pipe_mode.framing import crc32c, masked

RECORD_IO_MAGIC = 0xCED7230A
FORMATS = ("RecordIO", "TFRecord", "TextLine")


class Pipes:
    """A tree like /opt/ml with channels in it."""

    def __init__(self, root: Path) -> None:
        self.data = root / "input" / "data"
        self.config = root / "input" / "config"
        self.state = root / "pipe_state"
        for folder in (self.data, self.config):
            folder.mkdir(parents=True)
        self.channels(train="Pipe", other="pipe", files="File")

    def channels(self, **modes: str) -> None:
        content = {name: {"TrainingInputMode": mode} for name, mode in modes.items()}
        (self.config / "inputdataconfig.json").write_text(json.dumps(content))

    def dataset(self, channel: str = "train", record_format: str = "RecordIO", **options: Any) -> Any:
        """A dataset of this tree's."""
        from tf_toolkit.pipe_mode import PipeModeDataset

        return PipeModeDataset(channel, record_format, str(self.state), str(self.data), str(self.config), **options)

    def feed(self, *passes: bytes | Iterable[bytes], channel: str = "train", first: int = 0) -> Writer:
        """Write the passes one after another, each in the pieces that it is made of."""
        writer = Writer([(self.data / f"{channel}_{first + number}", data) for number, data in enumerate(passes)])
        writer.start()
        return writer


class Writer(threading.Thread):
    """Makes FIFOs and writes to them; ``left`` are those whose reader did not read them to the end."""

    def __init__(self, passes: Sequence[tuple[Path, bytes | Iterable[bytes]]]) -> None:
        super().__init__(daemon=True)
        self._passes = passes
        self.left: list[str] = []
        os.mkfifo(passes[0][0])

    def run(self) -> None:
        for number, (path, data) in enumerate(self._passes):
            with path.open("wb", buffering=0) as fifo:
                # The next comes when this one is opened.
                for following, _ in self._passes[number + 1 : number + 2]:
                    os.mkfifo(following)
                try:
                    for piece in [data] if isinstance(data, bytes) else data:
                        view = memoryview(piece)
                        while view:
                            view = view[fifo.write(view) :]
                except BrokenPipeError:
                    self.left.append(path.name)


def framed(record_format: str, record: bytes) -> bytes:
    """A record as it is in a stream."""
    if record_format == "RecordIO":
        return record_io(0, record)
    if record_format == "TFRecord":
        length = struct.pack("<Q", len(record))
        return length + crc(length) + record + crc(record)
    return record + b"\n"


def record_io(flag: int, part: bytes) -> bytes:
    """A frame of RecordIO."""
    return struct.pack("<II", RECORD_IO_MAGIC, flag << 29 | len(part)) + part + b"\xff" * (-len(part) % 4)


def crc(data: bytes) -> bytes:
    """The masked checksum of TFRecord."""
    return struct.pack("<I", masked(crc32c()(data)))


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """The data in pieces of these sizes, and again."""
    at = number = 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        yield data[at : at + size]
        at += size
        number += 1
