"""Finds the module only where the package has been installed."""

from solids import volume

print("volume", volume(2, 3, 4))
