"""A handler that does what its request says, which is Python, and answers with what that calls ``answer``."""

import json


def handler(data, context):
    names = {"context": context}
    exec(data.read().decode(), names)
    return json.dumps(names["answer"])
