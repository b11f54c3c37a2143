"""A group of exceptions within a group."""


def load(number: int) -> None:
    raise ValueError(f"bad shard {number}\nof three")


def load_all() -> None:
    errors = []
    for number in range(2):
        try:
            load(number)
        except ValueError as error:
            errors.append(error)
    raise ExceptionGroup("loading failed", errors)  # noqa: F821


try:
    load_all()
except ExceptionGroup as group:  # noqa: F821
    raise ExceptionGroup("training failed", [group, TypeError("late")]) from None  # noqa: F821
