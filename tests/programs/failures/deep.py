"""An exception far down in the user's own code."""


def fit(depth: int) -> None:
    if depth == 0:
        raise ValueError("bad learning rate")
    fit(depth - 1)


fit(12)
