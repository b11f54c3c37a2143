"""uv: how it is started, with pip's settings in its own words, and how it says what went wrong (from 0.4 to 0.13).

It reads none of pip's settings, so the common ones are translated (https://docs.astral.sh/uv/reference/environment/).
Its own win where they are set.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit.requirements.failure import NAME, Attempt, Found, build_error
from tf_toolkit.requirements.file import normalised
from tf_toolkit.requirements.settings import Tool, configured, is_true, source

# pip's variable, uv's, and another that says the same to uv. The older names, which uv of every version reads.
_NAMES = (
    ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"),
    ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX"),
    ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST", ""),
    ("PIP_CONSTRAINT", "UV_CONSTRAINT", ""),
    ("PIP_CERT", "SSL_CERT_FILE", ""),
    ("PIP_CLIENT_CERT", "SSL_CLIENT_CERT", ""),
)
_NUMBERS = (
    ("PIP_TIMEOUT", "UV_HTTP_TIMEOUT"),
    ("PIP_DEFAULT_TIMEOUT", "UV_HTTP_TIMEOUT"),
    ("PIP_RETRIES", "UV_HTTP_RETRIES"),
)
_SWITCHES = (
    ("PIP_PRE", "UV_PRERELEASE", "allow"),
    ("PIP_REQUIRE_HASHES", "UV_REQUIRE_HASHES", "1"),
    ("PIP_NO_CACHE_DIR", "UV_NO_CACHE", "1"),
    ("PIP_BREAK_SYSTEM_PACKAGES", "UV_BREAK_SYSTEM_PACKAGES", "1"),
)
_NEEDS = r" depends? on "


def find(directory: Path, env: dict[str, str], own_index: bool) -> Tool | None:
    """The uv on ``PATH``, if there is one; ``own_index`` when PIP_INDEX_URL is to win over what uv was told."""
    import shutil

    uv = shutil.which("uv", path=env.get("PATH", os.defpath))
    if uv is None:
        return None
    if own_index:
        env.pop("UV_INDEX_URL", None)
        env.pop("UV_DEFAULT_INDEX", None)
    _translate(directory, env)
    python = ("--python", sys.executable)
    options = [*python, *(["--no-index"] if is_true(env.get("PIP_NO_INDEX", "")) else [])]
    # An option of ours would hide the variable; pip adds the two up.
    for path in env.get("UV_CONSTRAINT", "").split():
        options += ["--constraint", path]
    return Tool(
        argv=(uv, "pip"),
        options=tuple(options),
        env=env,
        source=source(env, env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL")),
        rules=(_not_a_requirement, _not_built, _wrong_hash, _unsolvable, _not_fetched),
        check=("check", *python),
    )


def _translate(directory: Path, env: dict[str, str]) -> None:
    for name, value in configured(env).items():
        env.setdefault(name, value)
    for pip_name, name, same in _NAMES:
        if env.get(pip_name) and not env.get(same):
            env.setdefault(name, " ".join(env[pip_name].split()))
    if env.get("PIP_EXTRA_INDEX_URL"):
        # pip takes the best version of all indexes, uv would take the first index that has any.
        env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    for pip_name, name in _NUMBERS:
        # uv takes whole seconds only.
        if env.get(pip_name, "").isdigit():
            env.setdefault(name, env[pip_name])
    for pip_name, name, value in _SWITCHES:
        if is_true(env.get(pip_name, "")):
            env.setdefault(name, value)
    # pip only warns of a folder that is not there.
    links = [link for link in env.get("PIP_FIND_LINKS", "").split() if "://" in link or (directory / link).exists()]
    if links:
        env["UV_FIND_LINKS"] = ",".join(filter(None, [env.get("UV_FIND_LINKS", ""), *links]))
    if not _can_cache(env):
        # Without a place for its cache uv gives up, where pip warns and goes on.
        env.setdefault("UV_NO_CACHE", "1")


def _can_cache(env: Mapping[str, str]) -> bool:
    home = env.get("HOME") and f"{env['HOME']}/.cache"
    place = env.get("UV_CACHE_DIR") or env.get("XDG_CACHE_HOME") or home
    if not place:
        return True
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(place, os.W_OK | os.X_OK)


def _not_a_requirement(attempt: Attempt) -> Found | None:
    found = re.search(r"Couldn't parse requirement in .*\n\s*(?:cause|Caused by): (.*)\n(.*)\n", attempt.output)
    if found:
        return Found(attempt.starting(found[2].strip()), f"not a requirement: {found[1]}")
    found = re.search(r"^error: (Unexpected .+?)(?:: | at )(\S+?):(\d+):\d+$", attempt.output, re.MULTILINE)
    return Found(attempt.numbered(found[2], found[3]), found[1]) if found else None


def _not_built(attempt: Attempt) -> Found | None:
    found = re.search(rf"Failed to (?:download and )?build `?({NAME})(.*)(?s:(.*))", attempt.output)
    if not found or "Git operation failed" in found[3]:
        return None
    missing = re.search(rf"Because ({NAME}) was not found", _flat(found[3]))
    why = f"it needs {missing[1]}, and {attempt.source} has none" if missing else build_error(found[3])
    line = attempt.line_for([found[1], found[2].rstrip("/`").rpartition("/")[2]])
    return Found(line, f"{'' if line else found[1] + ': '}its build failed: {why}")


def _wrong_hash(attempt: Attempt) -> Found | None:
    found = re.search(rf"Hash mismatch for `({NAME})", attempt.output)
    if not found:
        return None
    return Found(attempt.line_for([found[1]]), f"the file that {attempt.source} has does not match its hash")


def _unsolvable(attempt: Attempt) -> Found | None:
    """A proof in English that there is no solution: "Because A and B, we can conclude that C. And because ..."."""
    found = re.search(r"No solution found when resolving.*\n(?s:(.*))", attempt.output)
    if not found:
        return None
    proof = _flat(re.split(r"\n\s*\n|\n\s*hint:", found[1])[0])
    clauses = re.findall(r"[Bb]ecause (.+?), we can conclude", proof)
    splits = r",? and (?=you require |\S+==\S+$|.+? (?:depends?|was|is|are) )"
    facts = [fact for clause in clauses for fact in re.split(splits, clause)]
    asked = re.findall(rf"you require ({NAME})(?:\S* and ({NAME}))?", proof)
    names = [name for pair in asked for name in pair]
    needs = [fact for fact in facts if re.search(_NEEDS, fact)]
    for fact in [*needs, *facts]:
        for name in re.findall(NAME, re.split(_NEEDS, fact)[-1]):
            if normalised(name) in attempt.packages:
                return attempt.collision(name, fact if fact in needs else "", names)
    line = attempt.line_for(names)
    refused = re.search(r"\b(40[13] (?:Unauthorized|Forbidden))", attempt.output)
    if refused:
        return Found(line, f"{attempt.source} answered {refused[1]}")
    missing = re.search(rf"({NAME}) was not found in the", proof)
    if missing:
        what = "it" if line and line.name == normalised(missing[1]) else missing[1]
        return Found(line, f"{attempt.source} has no version of {'; '.join([what, *needs[:1]])}")
    telling = [fact for fact in facts if not re.match(r"you require |only \S+ is available", fact)]
    return Found(line, "; ".join(telling) or proof)


def _not_fetched(attempt: Attempt) -> Found | None:
    found = re.search(r"Failed to (?:fetch|download):? `?(https?://\S+?)`?\n(?s:(.*))", attempt.output)
    if not found:
        return None
    causes = re.findall(r"^\s*(?:cause|Caused by): (.+)$", found[2], re.MULTILINE)
    cause = re.sub(r" for url \(.*", "", causes[-1]) if causes else "no answer"
    segment = found[1].rstrip("/").rpartition("/")[2]
    return Found(attempt.line_for([segment, segment.partition("-")[0]]), f"{found[1]} cannot be fetched: {cause}")


def _flat(text: str) -> str:
    """Text without the drawing and the line ends of an error tree."""
    return " ".join(re.sub(r"[│├╰└─▶×]|\b(?:cause|Caused by):", " ", text).split())
