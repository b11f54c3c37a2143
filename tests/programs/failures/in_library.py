"""An exception raised inside a library that the user's code calls."""

import json


def read_labels() -> object:
    return json.loads("{bad")


read_labels()
