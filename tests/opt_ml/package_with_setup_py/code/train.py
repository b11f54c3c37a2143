"""Finds the package only where setup.py has installed it."""

from shapes import area

print("area", area(2, 3))
