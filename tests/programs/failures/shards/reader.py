"""Raises an exception of its own."""


class ShardError(Exception):
    pass


def read(number: int) -> None:
    raise ShardError(f"shard {number}")
