"""An exception in a finaliser, which Python ignores, after the one that counts."""


class Reader:
    def __del__(self) -> None:
        raise OSError("already closed")


reader = Reader()
raise ValueError("bad learning rate")
