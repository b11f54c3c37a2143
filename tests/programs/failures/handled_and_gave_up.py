"""A handled exception, printed with the logging module, is the reason for giving up."""

import logging
import sys


def main() -> int:
    try:
        raise KeyError("learning_rate")
    except KeyError:
        logging.exception("training failed")
        return 4


sys.exit(main())
