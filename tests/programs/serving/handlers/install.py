"""Installs what the code beside a model needs, as the server does before it imports it: install.py MODEL_DIR"""

import logging
import os
import signal
import sys
from pathlib import Path

from tf_toolkit.errors import ToolkitError
from tf_toolkit.serving import model_code

logging.basicConfig(level=logging.INFO, format="%(message)s")
# As a server has one.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
code = model_code.find(Path(sys.argv[1]), os.environ)
if code is None:
    print("no code")
    sys.exit()
try:
    model_code.install(code, os.environ, quiet=False)
except ToolkitError as error:
    print(error)
    sys.exit(error.exit_code)
try:
    import foo

    print("imported foo", foo.version)
except ImportError:
    print("no foo")
