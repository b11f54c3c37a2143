"""An exception raised while another one is handled, with a long way to both."""


def left(depth: int, text: str) -> None:
    if depth == 0:
        raise ValueError(text)
    right(depth - 1, text)


def right(depth: int, text: str) -> None:
    left(depth - 1, text)


try:
    left(60, "bad learning rate")
except ValueError:
    left(60, "bad fallback")
