"""What schemathesis cannot know of the server: see schemathesis.toml.

Bodies that are no JSON, of the default model, whose input are rows of 64 floats; answers that are no JSON, and numbers
in JSON that only its dialect has; and the types that answers are asked for in.
"""

import io
import json
import zlib

import numpy as np
import schemathesis
from hypothesis import strategies as st

ROWS = st.lists(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=64, max_size=64),
    min_size=1,
    max_size=3,
)


def lines(write):
    return lambda rows: "".join(write(row) + "\n" for row in rows).encode()


def npy(rows):
    file = io.BytesIO()
    np.save(file, np.array(rows, np.float32))
    return file.getvalue()


@schemathesis.serializer("application/jsonlines", "application/jsons", "text/csv", "application/x-npy")
def write(ctx, value):
    """What is wrong on purpose may be anything."""
    return value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()


for name in ("application/jsonlines", "application/jsons"):
    schemathesis.openapi.media_type(name, ROWS.map(lines(json.dumps)))
schemathesis.openapi.media_type("text/csv", ROWS.map(lines(lambda row: ",".join(map(str, row)))))
schemathesis.openapi.media_type("application/x-npy", ROWS.map(npy))


@schemathesis.deserializer("application/json")
def read_json(ctx, response):
    return json.loads(response.content, parse_constant=lambda word: 0.0)


@schemathesis.deserializer("application/jsonlines", "text/csv")
def read_text(ctx, response):
    return response.content.decode()


@schemathesis.deserializer("application/x-npy")
def read_npy(ctx, response):
    return np.load(io.BytesIO(response.content), allow_pickle=False).tolist()


@schemathesis.hook
def before_call(context, case, kwargs):
    accepted = list(case.operation.definition.raw["responses"]["200"].get("content", {}))
    if len(accepted) > 1:
        # Each in its turn, and the same each time.
        case.headers["Accept"] = accepted[zlib.crc32(repr(case.body).encode()) % len(accepted)]
