"""Handles requests under another name than inference.py, and tells what it was given."""

import json
import os

# From the folder lib/ beside this script.
import prices


def handler(data, context):
    seen = {name: value for name, value in context._asdict().items() if name != "channel"}
    outputs = context.predict(json.loads(data.read()))
    return json.dumps(
        {**seen, "program": os.environ["SAGEMAKER_PROGRAM"], "price": prices.PRICE, "y": outputs["y"].tolist()}
    )
