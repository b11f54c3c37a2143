"""An exception class of the user's own package."""

from shards.reader import read

read(17)
