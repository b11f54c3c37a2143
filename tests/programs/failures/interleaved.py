"""What TensorFlow prints when its thread's log comes between the lines of the traceback."""

import sys

INNER = """\
W0000 00:00:1714550400.123456   12345 op_kernel.cc:1845] INVALID_ARGUMENT: KeyError: 17
Traceback (most recent call last):

  File "interleaved.py", line 2, in inner
    raise KeyError(17)

KeyError: 17


"""
OUTER = f"""\
Traceback (most recent call last):
  File "interleaved.py", line 99, in <module>
{INNER}    fit()
  File "interleaved.py", line 7, in fit
    raise ValueError("bad learning rate")
ValueError: bad learning rate"""
print(OUTER, file=sys.stderr)
sys.exit(1)
