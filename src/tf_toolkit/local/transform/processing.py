"""What is sent of records, and what becomes of their outputs: filters, and the join of input and output.

"Associate Prediction Results with Input Records",
https://docs.aws.amazon.com/sagemaker/latest/dg/batch-transform-data-processing.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tf_toolkit.local.transform.json_path import JsonPath, NotSelected
from tf_toolkit.local.transform.options import CSV, JSON, LINE, Options
from tf_toolkit.local.transform.records import Fault, Payload, Splitter, Unprepared

_OUTPUT = "SageMakerOutput"
_INPUT = "SageMakerInput"
# RFC 4180: commas within quotes are no ends of a field, and quotes within quotes are two.
_FIELD = re.compile(rb'[^,"]*(?:"[^"]*"[^,"]*)*')


class Processing:
    """Of the records of one job."""

    def __init__(self, options: Options, limit: int) -> None:
        """A payload has ``limit`` bytes at most."""
        self._input_kind = options.content_kind
        self._output_kind = options.accept_kind
        self._input_filter = options.input_filter
        self._output_filter = options.output_filter
        self._joins = options.joins
        self._end = b"\n" if options.assemble_with == LINE else b""
        # Of these the server leaves empty lines out, so that there is no output for them either.
        self._has_blanks = options.split_type == LINE and self._input_kind is not None
        self.splitter = Splitter(options.split_type, options.single_record, limit, self._is_record, self._prepare)

    def assemble(self, payload: Payload, answer: bytes) -> bytes:
        """What is written for a payload. Raises Fault where its records and the answer do not fit together."""
        if not self._joins and self._output_filter.is_all:
            return answer + self._end
        try:
            return b"\n".join(self._processed(payload, answer)) + self._end
        except (Unprepared, NotSelected) as error:
            raise Fault(f"{self.splitter.place(payload.first, payload.last)}the answer: {error}") from error

    def _is_record(self, record: bytes) -> bool:
        return not self._has_blanks or not record.isspace()

    def _prepare(self, record: bytes) -> bytes:
        if self._input_filter.is_all:
            return record
        try:
            return _filtered(self._input_filter, self._input_kind, record) + b"\n"
        except NotSelected as error:
            raise Unprepared(f"--input-filter {error}") from error

    def _processed(self, payload: Payload, answer: bytes) -> Iterator[bytes]:
        outputs = self._outputs(payload, answer)
        if not self._joins:
            yield from (_filtered(self._output_filter, self._output_kind, output) for output in outputs)
            return
        if len(outputs) != payload.total:
            raise Unprepared(
                f"{len(outputs)} lines for {payload.total} records, so they cannot be joined; see --accept, and "
                "--strategy SingleRecord"
            )
        for record, output in zip(self.splitter.records(payload), outputs):
            try:
                yield _filtered(self._output_filter, self._output_kind, self._joined(record.data, output))
            except (Unprepared, NotSelected) as error:
                raise Fault(f"{self.splitter.place(record.number, record.number)}joined: {error}") from error

    def _outputs(self, payload: Payload, answer: bytes) -> list[bytes]:
        """One for each record, as far as can be told."""
        if self._output_kind == JSON and (payload.total == 1 or not self._joins):
            return [answer]
        lines = answer.split(b"\n")
        return lines if lines[-1] else lines[:-1]

    def _joined(self, record: bytes, output: bytes) -> bytes:
        if self._input_kind == CSV:
            return b",".join(part.rstrip(b"\r\n") for part in (record, output))
        value, found = _parsed(record), _parsed(output)
        return _dumped({**value, _OUTPUT: found} if isinstance(value, dict) else {_INPUT: value, _OUTPUT: found})


def _filtered(path: JsonPath, kind: str | None, record: bytes) -> bytes:
    """What a path selects of a record, without the end of its line. Raises NotSelected, and Unprepared."""
    if kind == CSV:
        line = record.rstrip(b"\r\n")
        return line if path.is_all else b",".join(path.columns(_fields(line)))
    return _dumped(path.select(_parsed(record)))


def _fields(line: bytes) -> list[bytes]:
    """The fields of a line of CSV, as they stand there. Raises Unprepared."""
    if b'"' not in line:
        return line.split(b",")
    fields, at = [], 0
    while True:
        match = _FIELD.match(line, at)
        assert match is not None
        fields.append(match[0])
        at = match.end()
        if at == len(line):
            return fields
        if line[at : at + 1] != b",":
            raise Unprepared("a quote is not closed; there can be no newline in a field where files are split by lines")
        at += 1


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unprepared(f"this is no JSON: {error}") from error


def _dumped(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Halves of surrogate pairs, which only an escape can hold.
        return json.dumps(value, separators=(",", ":")).encode()
