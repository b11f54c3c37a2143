"""The options of ``tf-toolkit transform``, which are the platform's parameters of a batch transform, checked.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTransformJob.html
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.local.job import COMPRESSIONS, UsageError
from tf_toolkit.local.transform.json_path import JsonPath

NONE, LINE, RECORD_IO, TF_RECORD = SPLIT_TYPES = ("None", "Line", "RecordIO", "TFRecord")
MULTI_RECORD, SINGLE_RECORD = STRATEGIES = ("MultiRecord", "SingleRecord")
ASSEMBLE_WITH = (NONE, LINE)
NOT_JOINED, INPUT = JOIN_SOURCES = ("None", "Input")
MEGABYTE = 1 << 20
DEFAULT_PAYLOAD_MB = 6
# Of one payload, and of all that are in flight at once.
_MOST_MB = 100
# The kinds of record that filters and joins know.
CSV, JSON, JSON_LINES = "text/csv", "application/json", "application/jsonlines"

DESCRIPTION = """\
Transform files by the models below a folder, as the platform's batch transform does: the same server as of `serve` is
started for it alone, handlers in code/inference.py included, and is sent the records of each file. What it answers is
written to a file of the same name with .out behind it, in the order of the records.

A file with a record that cannot be transformed gets no output; the others do, and the exit status is 1. A second run
leaves the outputs that are there, and does the rest.
"""
EXAMPLES = """\
examples:
  tf-toolkit transform --model-dir model --input data --output out --content-type text/csv --split-type Line
  tf-toolkit transform --model-dir model --input s3://bucket/data/ --output s3://bucket/out --max-payload 50
  tf-toolkit transform --model-dir model --input data.csv --output out --content-type text/csv --accept text/csv \\
      --split-type Line --assemble-with Line --input-filter '$[1:]' --join-source Input --output-filter '$[0,-1]'

Filters are JSONPath: $, $.name, $['a','b'], $[0], $[1,-1], $[1:], and *. Of CSV they select columns. --output-filter
selects of the joined record where there is one, else of the answer.
"""


class Options(NamedTuple):
    """What is to be transformed, and how."""

    model_dir: Path
    # A path, or an address of S3.
    input: str
    output: str
    content_type: str | None
    split_type: str
    # None where the platform's default counts.
    strategy: str | None
    max_payload_mb: int | None
    max_concurrent: int | None
    accept: str | None
    assemble_with: str
    joins: bool
    input_filter: JsonPath
    output_filter: JsonPath
    gzip: bool

    @property
    def content_kind(self) -> str | None:
        return _kind(self.content_type)

    @property
    def accept_kind(self) -> str | None:
        return _kind(self.accept)

    @property
    def single_record(self) -> bool:
        return self.strategy == SINGLE_RECORD


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser."""
    add = parser.add_argument
    add("--model-dir", metavar="DIR", required=True, help="where models are, as in /opt/ml/model")
    add("--input", metavar="PATH", required=True, help="a file, a folder with all below it, or s3://BUCKET/PREFIX")
    add("--output", metavar="DIR", required=True, help="a folder or s3://BUCKET/PREFIX, for outputs")
    add("--content-type", metavar="TYPE", help="what the files are, such as text/csv")
    add("--split-type", choices=SPLIT_TYPES, default=NONE, help="what a record is; default: None, a whole file")
    add(
        "--strategy",
        choices=STRATEGIES,
        help="whether a request has as many records as --max-payload lets it, which is the default, or one; one of "
        "RecordIO or TFRecord is sent without its frame",
    )
    add("--max-payload", metavar="MB", type=int, help="the most that a request has of a file; default: 6")
    add(
        "--max-concurrent",
        metavar="N",
        type=int,
        help="how many requests are made at once; default: what the server says, which is the number of CPUs",
    )
    add("--accept", metavar="TYPE", help="what answers are to be, such as text/csv")
    add(
        "--assemble-with",
        choices=ASSEMBLE_WITH,
        default=NONE,
        help="Line ends each answer with a newline; default: answers follow one another as they are",
    )
    add("--input-filter", metavar="JSONPATH", default="$", help="what of a record is sent; default: $, all")
    add(
        "--join-source",
        choices=JOIN_SOURCES,
        default=NOT_JOINED,
        help="Input puts the record before its output: in a line of CSV, or in an object of JSON with SageMakerOutput",
    )
    add("--output-filter", metavar="JSONPATH", default="$", help="what of the result is written; default: $, all")
    add("--compression", choices=COMPRESSIONS, help="the files are gzip streams, and are unzipped")


def read(given: argparse.Namespace) -> Options:
    """What the command line says. Raises UsageError."""
    options = Options(
        model_dir=Path(os.path.realpath(given.model_dir)),
        input=given.input,
        output=given.output,
        content_type=given.content_type,
        split_type=given.split_type,
        strategy=given.strategy,
        max_payload_mb=given.max_payload,
        max_concurrent=given.max_concurrent,
        accept=given.accept,
        assemble_with=given.assemble_with,
        joins=given.join_source == INPUT,
        input_filter=JsonPath("--input-filter", given.input_filter),
        output_filter=JsonPath("--output-filter", given.output_filter),
        gzip=given.compression is not None,
    )
    if not options.model_dir.is_dir():
        raise UsageError(f"--model-dir {given.model_dir!r}: no such directory; give one that is like /opt/ml/model")
    for option, value in (("--content-type", options.content_type), ("--accept", options.accept)):
        if value is not None and (not value.isascii() or not value.isprintable()):
            raise UsageError(f"{option} {value!r}: expected a media type, such as text/csv")
    _check_sizes(options)
    _check_processing(options)
    return options


def _check_sizes(options: Options) -> None:
    payload, concurrent = options.max_payload_mb, options.max_concurrent
    if payload is not None and not 1 <= payload <= _MOST_MB:
        raise UsageError(f"--max-payload {payload}: expected a whole number of megabytes from 1 to {_MOST_MB}")
    if concurrent is None:
        return
    most = _MOST_MB // (payload or DEFAULT_PAYLOAD_MB)
    if not 1 <= concurrent <= most:
        raise UsageError(
            f"--max-concurrent {concurrent}: expected a number from 1 to {most}, for the platform has "
            f"{_MOST_MB} MB in flight at most, of {payload or DEFAULT_PAYLOAD_MB} MB each; see --max-payload"
        )


def _check_processing(options: Options) -> None:
    """That filters and joins know the records that they are to be used on."""
    for option, kind, used, path in (
        ("--content-type", options.content_kind, not options.input_filter.is_all, options.input_filter),
        ("--accept", options.accept_kind, not options.output_filter.is_all, options.output_filter),
    ):
        if not used and not options.joins:
            continue
        if kind is None:
            raise UsageError(
                f"--join-source and filters need {option} to be {CSV}, {JSON} or {JSON_LINES}, which they know"
            )
        if option == "--content-type" and options.split_type in (RECORD_IO, TF_RECORD):
            raise UsageError(
                "--join-source and --input-filter do not look into frames; give --split-type Line, or None for a whole "
                "file"
            )
        if kind == CSV:
            path.check_columns()
        if kind != JSON and (options.split_type, options.assemble_with) != (LINE, LINE):
            raise UsageError(
                f"--join-source and filters of {kind} go line by line; give --split-type Line and --assemble-with Line"
            )
    if options.joins and (options.content_kind == CSV) != (options.accept_kind == CSV):
        raise UsageError(
            f"--join-source Input cannot join {options.content_kind} with {options.accept_kind}; give --accept "
            f"{CSV if options.content_kind == CSV else JSON_LINES}"
        )


def _kind(media_type: str | None) -> str | None:
    """What filters and joins take it for; None for what they do not know."""
    name = (media_type or "").partition(";")[0].strip().lower()
    # The incumbents' other name.
    name = JSON_LINES if name == "application/jsons" else name
    return name if name in (CSV, JSON, JSON_LINES) else None
