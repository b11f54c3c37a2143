"""Takes memory until it may have no more."""

held = []
while True:
    held.append(bytearray(b"x" * 10_000_000))
