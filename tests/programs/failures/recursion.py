"""Endless recursion: Python prints a few frames and how often the last is repeated."""


def loop() -> None:
    loop()


loop()
