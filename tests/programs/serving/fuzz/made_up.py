"""Texts and bytes that are nearly right, out of what atheris' data provider gives."""

import io
import json
import struct

import numpy as np

NUMBERS = [
    *(
        "0",
        "-0",
        "1",
        "-1",
        "0.5",
        "1.0",
        "1e3",
        "-2.5E-3",
        "1e308",
        "1e999",
        "-1e400",
        "1e-400",
        "3.4028235e38",
        "3.5e38",
    ),
    *("127", "128", "-129", "255", "256", "65504", "65520", "2049", "16777217", "2147483648", "9007199254740993"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551615"),
    *("18446744073709551616", "1" * 30, "1" * 400, "01", "+1", "1.", ".5", "1e", "0x1", "1_0", "\u0661"),
    *("NaN", "-NaN", "Infinity", "-Infinity", "Inf", "-Inf", "nan", "inf"),
]
WORDS = [
    "true",
    "false",
    "null",
    "True",
    "nul",
    '""',
    '"a"',
    '"NaN"',
    '"\\u00e9"',
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\\x"',
    '"\t"',
]
STRINGS = [
    "",
    "a",
    "x",
    "b64",
    "é",
    '"',
    "\\",
    "[",
    "]}",
    "\n",
    "\r",
    ",",
    "1",
    " ",
    "\0",
    "\ud83d\ude00",
    "NaN",
    "true",
]
BASE64 = ["", "YQ==", "YQ", "Y", "YW Jj", "é", "_-", "YWJj\n", "===="]
BLANKS = ["", "", "", "", " ", "\n", "\t", "\r\n"]


class Maker:
    def __init__(self, provider):
        self.provider = provider
        # What values are: numpy's letter for floats, integers, booleans or texts.
        self.kind = "f"

    def number(self, most):
        return self.provider.ConsumeIntInRange(0, most)

    def one_of(self, choices):
        return choices[self.number(len(choices) - 1)]

    def many(self, make, most):
        return [make() for _ in range(self.number(most))]

    def blank(self):
        return self.one_of(BLANKS)

    def string(self):
        if self.number(2):
            return self.one_of(STRINGS)
        return self.provider.ConsumeUnicodeNoSurrogates(self.number(8))

    def rarely(self):
        return self.number(19) == 19

    def scalar(self):
        """Mostly of the kind that is wanted."""
        kind = self.one_of("fibO") if self.rarely() else self.kind
        if kind == "b":
            return self.one_of(["true", "false"]) if self.number(9) else self.one_of(WORDS)
        if kind == "O":
            return self.one_of([json.dumps(self.string()), f'{{"b64":{json.dumps(self.one_of(BASE64))}}}', '"a"'])
        if self.number(3):
            return str(self.number(100) - 20 * (kind != "i")) + self.one_of(["", ".5", "e1"]) * (kind == "f")
        return self.one_of(NUMBERS)

    def array(self, depth):
        """Of one shape, but rarely not."""
        element = self.scalar()
        return self.nested([self.number(3) for _ in range(depth)], element)

    def nested(self, shape, element):
        if self.rarely():
            return self.value(2)
        if not shape:
            return element if self.number(1) else self.scalar()
        return self.listed([self.nested(shape[1:], element) for _ in range(shape[0])])

    def listed(self, texts):
        return f"[{','.join(self.blank() + text for text in texts)}{self.blank()}]"

    def object(self, members):
        return f"{{{','.join(f'{self.blank()}{json.dumps(name)}:{text}' for name, text in members)}}}"

    def value(self, depth):
        kind = self.number(3) if depth else 0
        if kind < 2:
            return self.scalar()
        if kind == 2:
            return self.listed(self.many(lambda: self.value(depth - 1), 3))
        return self.object(self.many(lambda: (self.string(), self.value(depth - 1)), 3))

    def request(self, inputs):
        """Of TensorFlow Serving's REST API, for a model with inputs of these names."""
        members = []
        if self.rarely():
            members.append(("signature_name", self.one_of(['""', '"serving_default"', '"none"', "1"])))
        key = self.one_of(["instances", "instances", "inputs", "inputs", "examples"])
        members.append((key, self.rows(inputs) if key != "inputs" else self.named(inputs, 2)))
        if self.rarely():
            members.append(("output_filter", self.one_of(['["y"]', "[]", '["z"]', '"y"', "null"])))
        if self.rarely():
            members.append((self.one_of(["context", "inputs", "instances", "other"]), self.value(3)))
        return self.object(members)

    def rows(self, inputs):
        if self.number(1):
            return self.array(1 + self.number(2))
        return self.listed(self.many(lambda: self.named(inputs, 1), 3))

    def named(self, inputs, depth):
        names = [name for name in inputs if not self.rarely()] + ([self.string()] if self.rarely() else [])
        return self.object([(name, self.array(self.number(depth))) for name in names])

    def document(self, inputs):
        kind = self.number(5)
        if kind == 0:
            return self.value(4)
        if kind == 1:
            return "\n".join(self.many(lambda: self.one_of([self.value(2), self.named(inputs, 1)]), 4))
        if kind == 2:
            return "\n".join(self.many(lambda: self.request(inputs), 2))
        return self.request(inputs)

    def csv(self):
        columns = 1 + self.number(2)
        rows = self.many(lambda: self.many(self.field, 3) if self.rarely() else self.fields(columns), 4)
        return self.one_of(["\n", "\r\n", "\n\n"]).join(",".join(row) for row in rows) + self.one_of(["", "\n", " \n"])

    def fields(self, count):
        return [self.field() for _ in range(count)]

    def field(self):
        kind = "" if self.rarely() else self.kind
        if kind == "O":
            text = self.string()
            return text if self.number(1) else '"' + text.replace('"', '""') + '"'
        if kind == "b":
            return self.blank() + self.one_of(["true", "false", "TRUE"]) + self.one_of(["", " "])
        if kind:
            return self.scalar()
        return self.one_of([*NUMBERS, *STRINGS])

    def npy(self):
        if self.number(3):
            return self.saved_array()
        descr = self.one_of(
            ["'<f4'", "'<i8'", "'|b1'", "'|S3'", "'<U2'", "'>f8'", "'|O'", "[('a', '<f4')]", "'<c8'", "''", "1"]
        )
        shape = self.one_of(
            ["()", "(2,)", "(1, 2)", "(0,)", "(-1,)", "(999999999999,)", "2", "(True,)", "(1.0,)", "(2,) * 2"]
        )
        order = self.one_of(["False", "True", "None"])
        header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
        version = self.one_of([b"\1\0", b"\2\0", b"\3\0", b"\0\0"])
        size = struct.pack("<H" if version[0] < 2 else "<I", len(header) + self.one_of([0, 0, 0, 1, 60000]))
        return b"\x93NUMPY" + version + size + header + self.provider.ConsumeBytes(self.number(24))

    def saved_array(self):
        kinds = {
            "f": ["f2", "f4", "f8", ">f4", "i1"],
            "i": ["i1", "u1", "<i2", ">i8"],
            "b": ["b1"],
            "O": ["S2", "<U2", ">U1"],
        }
        kind = self.one_of(["c8", "u8", "M8[s]"] if self.rarely() else kinds[self.kind])
        shape = [self.number(3) for _ in range(self.number(3))]
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        data = self.provider.ConsumeBytes(size).ljust(size, b"\0")
        file = io.BytesIO()
        np.save(file, np.frombuffer(data, kind).reshape(shape), allow_pickle=False)
        return file.getvalue()

    def broken(self, data):
        """Sometimes cut off, or with other bytes in it."""
        kind = self.number(9)
        place = self.number(len(data))
        if kind == 0:
            return data[:place]
        if kind == 1:
            return data[:place] + self.provider.ConsumeBytes(1 + self.number(3)) + data[place + self.number(2) :]
        return data

    def message(self, depth):
        """A message of protobuf, of any fields."""
        return b"".join(self.many(lambda: self.wire_field(depth), 4))

    def wire_field(self, depth):
        if self.rarely():
            return self.provider.ConsumeBytes(1 + self.number(12))
        number = self.one_of([1, 1, 2, 2, 3, 4, 5, 8, 1 << 28])
        if depth and self.number(3):
            data = self.message(depth - 1) if self.number(3) else self.content()
            return varint(number << 3 | 2) + varint(len(data)) + data
        return varint(number << 3) + varint(self.one_of([self.number(30), (1 << 64) - 1 - self.number(1)]))

    def content(self):
        return self.one_of([b"serve", b"x", b"x:0", b"serving_default", b"", self.provider.ConsumeBytes(6)])


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
