"""``python -m tf_toolkit.local`` is ``tf-toolkit``."""

from __future__ import annotations

import sys

from tf_toolkit.local.cli import main

if __name__ == "__main__":
    sys.exit(main())
