"""More memory than there is."""

bytearray(1 << 62)
