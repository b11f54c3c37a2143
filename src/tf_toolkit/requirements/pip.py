"""pip: how it is started, and how it says what went wrong (in the wording of 21.1 to 26)."""

from __future__ import annotations

import re
import sys

from tf_toolkit.requirements.failure import NAME, Attempt, Found, build_error, first_name
from tf_toolkit.requirements.file import normalised
from tf_toolkit.requirements.settings import Tool, source

_NO_VERSION = r"Could not find a version that satisfies the requirement (.+?) \(from versions: (.*)\)$"
_VERSIONS_SHOWN = 5
_CONSTRAINT = "(constraint) "


def find(env: dict[str, str]) -> Tool | None:
    """The pip of the running environment, if it has one."""
    from importlib.util import find_spec

    if find_spec("pip") is None:
        return None
    # A file of the user's that is called typing.py must not be imported in place of Python's own.
    unshadowed = ("-P",) if sys.version_info >= (3, 11) else ()
    return Tool(
        argv=(sys.executable, *unshadowed, "-m", "pip"),
        options=("--disable-pip-version-check", "--no-input"),
        env=env,
        source=source(env, env.get("PIP_INDEX_URL")),
        rules=(
            _too_old,
            _not_a_requirement,
            _no_such_option,
            _not_built,
            _wrong_hash,
            _no_version,
            _conflict,
            _not_fetched,
        ),
        unexplained=_unexplained,
    )


def _unexplained(output: str) -> str | None:
    """pip passes over an index that refuses it or has no such page, and says only that there are no versions."""
    found = re.search(_NO_VERSION, output, re.MULTILINE)
    if found is None or found[2] != "none" or "(unavailable)" in found[1] or "Retry(total=0" in output:
        return None
    return found[1].partition(" (from ")[0]


def _too_old(attempt: Attempt) -> Found | None:
    if "Links are not allowed as constraints" not in attempt.output:
        return None
    return Found(None, "this pip cannot keep what the image promises; the image needs pip 21.1 or later, or uv")


def _not_a_requirement(attempt: Attempt) -> Found | None:
    found = re.search(
        r"Invalid requirement: (.*(?:\n {4}.*){0,2}?)\(from line (\d+) of ([^)]+)\)(?:\nHint: (.*))?", attempt.output
    )
    if not found:
        return None
    reason = found[4] or found[1].partition("': ")[2].partition("\n")[0]
    return Found(attempt.numbered(found[3], found[2]), f"not a requirement{': ' * bool(reason)}{reason}")


def _no_such_option(attempt: Attempt) -> Found | None:
    found = re.search(r"^ERROR: Invalid requirement: (.*)\n\S+: error: (.*)$", attempt.output, re.MULTILINE)
    return Found(attempt.starting(found[1]), found[2]) if found else None


def _not_built(attempt: Attempt) -> Found | None:
    pattern = r"^ *[╰└]─> \[\d+ lines? of output\]\n((?:.*\n)*?) *\[end of output\]"
    before_22 = r"^ *Complete output \(\d+ lines?\):\n((?:.*\n)*?) *-{20,}$"
    found = re.search(pattern, attempt.output, re.MULTILINE) or re.search(before_22, attempt.output, re.MULTILINE)
    if not found:
        return None
    missing = re.search(_NO_VERSION, found[1], re.MULTILINE)
    why = f"it needs {missing[1]}, and {attempt.source} has none" if missing else build_error(found[1])
    before = attempt.output[: found.start()]
    named = re.findall(rf"Building (?:editable|wheel) for ({NAME})", before)
    collected = ["", *re.findall(r"^ *(?:Collecting|Processing|Obtaining) (.*)$", before, re.MULTILINE)][-1]
    line = attempt.line_for(named[-1:] or [collected.rpartition("/")[2]], "" if named else collected)
    return Found(line, f"{named[-1] + ': ' if named and not line else ''}its build failed: {why}")


def _wrong_hash(attempt: Attempt) -> Found | None:
    found = re.search(rf"DO NOT MATCH THE HASHES.*\n\s*({NAME})", attempt.output)
    if not found:
        return None
    if normalised(found[1]) in attempt.packages:
        return attempt.collision(found[1], "", [found[1]])
    return Found(attempt.line_for([found[1]]), f"the file that {attempt.source} has does not match its hash")


def _no_version(attempt: Attempt) -> Found | None:
    python = re.search(rf"Package '({NAME})' requires a different Python: (.*)", attempt.output)
    if python:
        return Found(attempt.line_for([python[1]]), f"{python[1]} is for another Python: {python[2]}")
    found = re.search(_NO_VERSION, attempt.output, re.MULTILINE)
    # So called where it could be found and not fetched or built.
    if not found or "(unavailable)" in found[1]:
        return None
    wanted, _, parent = found[1].partition(" (from ")
    parent = parent.rstrip(")")
    line = attempt.line_for([first_name(wanted), first_name(parent)])
    what = "it" if line and line.name == normalised(first_name(wanted)) else wanted
    what += f", which {parent} needs," if parent else ""
    if trouble := _trouble(attempt):
        return Found(line, f"{attempt.source} {trouble}")
    if found[2] == "none":
        return Found(line, f"{attempt.source} has no version of {what} for this Python")
    versions = ", ".join(found[2].split(", ")[-_VERSIONS_SHOWN:])
    return Found(line, f"{attempt.source} has no such version of {what.rstrip(',')}; it has {versions}")


def _conflict(attempt: Attempt) -> Found | None:
    """Requirements that exclude one another, or exclude what is protected."""
    found = re.search(
        r"Cannot install (.+) because these package versions have conflicting dependencies\.\s+"
        r"The conflict is caused by:\n((?: {4}.+\n)+)",
        attempt.output,
    )
    if not found:
        return None
    facts = [fact.strip().replace("The user requested ", "") for fact in found[2].splitlines()]
    wanted = [fact for fact in facts if not fact.startswith(_CONSTRAINT) and not re.fullmatch(NAME, fact)]
    asked = [item for item in re.split(r", | and ", found[1]) if not item.startswith("-r ")]
    names = [first_name(text) for text in (*wanted, *asked)]
    for fact in facts:
        name = first_name(fact[len(_CONSTRAINT) :])
        if fact.startswith(_CONSTRAINT) and normalised(name) in attempt.packages:
            needs = [fact for fact in wanted if " depends on " in fact]
            return attempt.collision(name, needs[0] if needs else "", names, found[1])
    return Found(attempt.line_for(names, found[1]), f"these exclude one another: {'; '.join(wanted)}")


def _not_fetched(attempt: Attempt) -> Found | None:
    """A requirement that is an address."""
    pattern = r"Could not install requirement (.+?) (?:from \S+ )?because of HTTP error (.+?) for url"
    found = re.search(pattern, attempt.output)
    if not found:
        return None
    return Found(attempt.line_for([first_name(found[1])], found[1]), f"its address answered {found[2]}")


def _trouble(attempt: Attempt) -> str:
    """What kept it from looking into the index, if anything did."""
    if "is not a trusted or secure host" in attempt.output:
        return "is neither https nor named in PIP_TRUSTED_HOST"
    broken = re.findall(r"Retry\(total=0.*connection broken by '(.*)': /", attempt.output)
    for said in re.findall(r"Could not fetch URL \S+: (.+) - skipping", attempt.output + attempt.log):
        answer = re.match(r"(\d+) (?:Client|Server) Error: (.*?) for url", said)
        if answer is None:
            broken.append(said)
        elif answer[1] != "404":
            return f"answered {answer[1]} {answer[2]}"
    return "cannot be reached: " + re.sub(r"^.*: ", "", broken[0]).rstrip("'\")") if broken else ""
