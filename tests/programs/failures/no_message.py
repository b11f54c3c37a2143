"""An exception without a message."""

assert not __doc__
