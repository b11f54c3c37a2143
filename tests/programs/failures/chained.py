"""An exception raised from another."""


def rate() -> float:
    try:
        return {"lr": 1.0}["rate"]
    except KeyError as error:
        raise ValueError("bad learning rate") from error


rate()
