"""Secrets: kept out of what is stored by where they stand, and out of texts that are only shown by how they look.

A session is stored as it is, so that it can go on; what is left out are the passwords of connection strings and the
options that a target declares secret (``public_plan``). Texts that somebody else wrote, such as a server's error, are
stored as they are too, and filtered where they are shown or logged (``redact``): the filter only knows what secrets
look like, rather hides too much than too little, and must therefore never touch what is read again.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from tunewright.errors import ConfigError
from tunewright.store.dsn import MASK, is_dsn, is_secret, read_dsn, snake
from tunewright.target import BaseTarget

# -- what is stored ---------------------------------------------------------------------------------


def public_spec(spec: str) -> str:
    """Return a target spec without the passwords in its argument.

    >>> public_spec("postgres:host=db user=me password='a b'"), public_spec("table:password=1.csv")
    ('postgres:host=db user=me', 'table:password=1.csv')
    """
    kind, colon, argument = spec.partition(":")
    if kind in ("table", "command") or (spec.endswith(".toml") and not is_dsn(argument)):
        return spec  # the argument is the path of a file
    return f"{kind}{colon}{read_dsn(argument).public}"


def public_options(options: Mapping[str, Any], declared: Iterable[str] = ()) -> dict[str, Any]:
    """Return options as they may be stored.

    Args:
        options: of a target or a tuner.
        declared: names of options that are secret; of a connection string only the password is, and anything else is
            replaced by ``***``. Options such as ``api_key`` need not be declared.
    """
    secret = set(declared)
    return {k: _public(k, v, k in secret or is_secret(k)) for k, v in options.items()}


def _public(name: str, value: Any, secret: bool) -> Any:
    if isinstance(value, str) and is_dsn(value):
        return read_dsn(value).public
    if not secret or value in (None, ""):
        return value
    known = read_dsn(value) if isinstance(value, str) and snake(name).endswith("dsn") else None
    return known.public if known is not None and known.clear else MASK


def public_plan(plan: Mapping[str, Any], target: BaseTarget | None) -> dict[str, Any]:
    """Return a plan as it may be stored.

    Args:
        plan: as a dictionary.
        target: the open target, whose ``secret_options`` and ``address`` are read; None if there is none.
    """
    spec, address = public_spec(plan["target"]), "" if target is None else target.address
    options = public_options(plan["options"], () if target is None else target.secret_options)
    if address and ":" not in spec and not any(read_dsn(str(v)).public == address for v in options.values()):
        spec = f"{spec}:{address}"  # it came from the environment, which may be another one when the session goes on
    return {**plan, "target": spec, "options": options, "tuner_options": public_options(plan["tuner_options"])}


def reopened(name: str, stored: Mapping[str, Any], given: Mapping[str, Any], flag: str = "--option") -> dict[str, Any]:
    """Return options to open a stored session with.

    Args:
        name: the session's.
        stored: its options.
        given: options that are given now; they replace stored ones.
        flag: that gives one.

    Raises:
        ConfigError: one was left out of the store, and is not given.
    """
    options = {
        k: read_dsn(v).public if isinstance(v, str) and MASK in v and v != MASK else v for k, v in stored.items()
    }
    options |= given
    for key, value in options.items():
        if value == MASK:
            raise ConfigError(
                f"the option {key!r} of session {name!r} is a secret and was not stored; "
                f"give it again with {flag} {key}=..."
            )
    return options


def restored(name: str, expressions: Iterable[str]) -> tuple[str, ...]:
    """Return expressions that an earlier version may have taken for secrets when it stored them.

    Raises:
        ConfigError: nothing tells what one was.
    """
    texts = []
    for text in expressions:
        whole = text.replace(f"={MASK} ", "== ")  # what it made of "max_tokens == 4096"
        if MASK in whole:
            raise ConfigError(
                f"session {name!r} was stored by an earlier version, which lost a part of its rule {text!r}; "
                "start a new session with the rule written anew"
            )
        texts.append(whole)
    return tuple(texts)


# -- what is shown ----------------------------------------------------------------------------------

_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*KEY-----|\Z)", re.DOTALL)
# up to the last "@" of a run: a raw "@" or "/" may belong to the password, and further hosts may have passwords too
_URL = re.compile(
    r"""(?:(?P<quote>["'])|(?<![A-Za-z0-9+.:"'-]))(?P<user>[A-Za-z0-9+.:-]*//[^\s/:"'<>]*:)
    (?(quote)(?:(?!(?<!\\)(?P=quote)\s*[,:}\])])\S){0,1000}|\S{0,1000})@""",
    re.VERBOSE,
)
_BEARER = re.compile(
    r"""\b(bearer[ \t]+)(?!(?:tokens?|auth\w*|schemes?|headers?|formats?|realm|of|is|was|not|or|and)
    (?:[\s.,;:="')\]]|$))[^\s"'<>]+""",
    re.VERBOSE | re.IGNORECASE,
)
_LOOKS = re.compile(
    r"""(?<![A-Za-z0-9])(?: (?:sk|pk|rk)[-_](?:[\w-]{6,} | (?=[\w-]*\d)[\w-]{3,})
    | (?:gh[pousr]_|github_pat_|glpat-|npm_|dop_v1_|whsec_|gsk_|nvapi-)[\w-]{4,} | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{4,}
    | xox[a-z]-[\w-]+ | xapp-[\w-]+ | hf_[A-Za-z0-9]{20,} | AIza[\w-]{20,}
    | eyJ[\w-]{8,2000}+\.[\w-]+(?:\.[\w-]*)? )""",
    re.VERBOSE,
)
_CURL = re.compile(r"(\bcurl\b[^\n]{0,2000}?[ \t](?:-u|--user)[ =]?['\"]?[^\s:'\"]+:)\S+")
_FIRST = r"(?:api|access|secret|private|auth|bearer|client|account)"
# a name is taken whole, and what follows it is looked at once: a search for both would begin at each letter anew
_NAME = re.compile(rf"(?:(?P<first>{_FIRST})[ ](?=[A-Za-z_]))?[A-Za-z_]\w*+(?:[.-]++\w++)*+", re.IGNORECASE)
_SIGN = re.compile(
    r"""(?P<closing>\\*["'`])?[ \t]*(?P<sign>=>|:=|={1,3}|:)[ \t]*(?:(?<=:)[ \t]*\n[ \t]*(?=["']))?
      | (?P<listed>\\*["'],\s*)(?=\\*["']) | (?P<space>[ \t]+)(?=\S) | (?P<tag>[^<>\n]{0,80}>)(?=[^\s<])""",
    re.VERBOSE,
)
_BLOCK = re.compile(r"[|>][+-]?\d?[ \t]*\n(?:[ \t]+[^\n]*(?:\n|\Z)|[ \t]*\n)+")  # YAML's texts of several lines
_QUOTED = re.compile(r"""[bBrRuUfFeE&]{0,2}(?P<escape>\\*)(?P<mark>["'`])""")
# quotes that may close the text in which a value without quotes stands, and what follows them
_TAIL = re.compile(r"""\\*["'`][\\"'`,;:)\]}.>]*\Z""")
_FAR = 4000  # characters within which a quoted text opens; a whole line would take quadratic time
_MARK = re.compile(r"""\\*(?P<mark>["'`])""")
_PLACE = "PASSWORD"  # stands for one, in advice on how to write a connection string
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_RUN = re.compile(r"(?:(?:bearer|basic|token|digest|apikey)[ \t]+)?(?:\\.|\S)+", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(
    r"""(?: [-+]?\d{1,8}(?:[.,_]\d{1,8})*(?:e[-+]?\d+)?(?:ms|[µu]s|s|%|x|k|M)?
    | none | null | true | false | yes | no | on | off )
    [,;:)}\]"']*(?:\s.*)?""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
# a number behind "token:" counts something; a password may well be a number
_OF_MODELS = re.compile(r"(?!.*(?:auth|access|api|bearer|refresh|session|secret|bot)_?token).*token")


def redact(value: Any, keep: Container[str] = ()) -> Any:
    """Return a value to show or log, with what looks like a password, key or token in it replaced by ``***``.

    Texts are searched for connection strings, pairs of name and value in the forms of shells, JSON, YAML, Python and
    HTTP, and keys that are known by how they begin; in mappings, values under a secret name are replaced.

    Args:
        value: a text, or mappings and lists of such; anything else is returned as it is.
        keep: names in mappings whose values are not touched.

    >>> redact("postgresql://me:p@ss@db/x host=a password=b")
    'postgresql://me:***@db/x host=a password=***'
    >>> redact({"api_key": "x", "never": ["max_tokens == 4096"]})
    {'api_key': '***', 'never': ['max_tokens == 4096']}
    """
    if isinstance(value, str):
        return _redacted(value)
    if isinstance(value, Mapping):
        return {k: v if k in keep else MASK if _hides(k, v) else redact(v, keep) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(v, keep) for v in value]
    return value


def _hides(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not is_secret(name) or value is None or isinstance(value, bool) or value == "":
        return False
    return not (isinstance(value, (int, float)) and _OF_MODELS.fullmatch(snake(name)))


def _redacted(text: str) -> str:
    text = _KEY_BLOCK.sub(MASK, text)
    text = _URL.sub(_masked_url, text)
    text = _pairs(text)
    text = _CURL.sub(rf"\1{MASK}", text)
    return _LOOKS.sub(MASK, _BEARER.sub(rf"\1{MASK}", text))


def _masked_url(url: re.Match[str]) -> str:
    start = (url["quote"] or "") + url["user"]
    return url[0] if url[0] == f"{start}{_PLACE}@" else f"{start}{MASK}@"


def _pairs(text: str) -> str:
    """Replace the values behind secret names."""
    parts, kept, at = [], 0, 0
    while name := _NAME.search(text, at):
        at = name.end()  # what follows may be a name itself
        sign = _SIGN.match(text, at)
        if sign is None and name["first"]:
            at = name.end("first")
            name = _NAME.match(text, name.start(), at) or name
            sign = _SIGN.match(text, at)
        if sign is None or not is_secret(name[0]) or not _assigns(text, name, sign):
            continue
        end = _value_end(text, name, sign)
        value = text[sign.end() : end]
        if not sign["closing"] and not sign["listed"]:
            value = value[: len(value) - len(_closing(text, name.start(), value))]
            end = sign.end() + len(value)
        if (
            not value
            or value.strip("\\\"'`,;:.)") == _PLACE
            or (_OF_MODELS.fullmatch(snake(name[0])) and _NUMBER.fullmatch(value))
        ):
            continue
        quote = sign["closing"] or sign["listed"]
        mark = re.match(r"\\*[\"'`]", quote or "")  # a document stays one: JSON, or a dictionary of Python
        parts += [text[kept : sign.end()], f"{mark[0]}{MASK}{mark[0]}" if mark else MASK]
        kept = at = end
    return "".join([*parts, text[kept:]])


def _closing(text: str, start: int, value: str) -> str:
    """Return the end of a value that closes the quoted text in which the pair stands: those quotes are kept."""
    tail = _TAIL.search(value[-100:])
    if tail is None:
        return ""
    opening = _QUOTED.match(value)
    line = text.rfind("\n", 0, start) + 1
    # a quote that is escaped belongs to a text within a text
    before = [m[0] for m in _MARK.finditer(text, max(line, start - _FAR), start)]
    for mark in _MARK.finditer(value, max(len(value) - len(tail[0]), 0)):
        if before.count(mark[0]) % 2 and not (opening and opening["mark"] == mark["mark"]):
            return value[mark.start() :]
    return ""


def _assigns(text: str, name: re.Match[str], sign: re.Match[str]) -> bool:
    """Whether a value follows the name, rather than the next word of a sentence."""
    before = text[name.start() - 1 : name.start()]
    if sign["sign"]:
        path = name[0] in ("PWD", "OLDPWD") and text[sign.end() : sign.end() + 1] == "/"  # where a shell stands
        return not path
    if sign["tag"]:
        return before == "<"
    flag = before == "-" and not name[0].lower().startswith("no-")
    if sign["space"] and snake(name[0]).endswith(("password", "passwd", "passphrase")):  # SQL's PASSWORD 'x'
        return flag or bool(_QUOTED.match(text, sign.end()))
    return flag


def _value_end(text: str, name: re.Match[str], sign: re.Match[str]) -> int:
    """Return where the value behind a secret name ends; where that is unsure, rather too late."""
    at, secret = sign.end(), snake(name[0])
    line = text.find("\n", at)
    line = len(text) if line < 0 else line
    if sign["tag"]:
        end = text.find("<", at)
        return len(text) if end < 0 else end
    if sign["sign"] == ":" and (block := _BLOCK.match(text, at)):
        return len(text[: block.end()].rstrip("\n"))
    if _QUOTED.match(text, at):
        ends = r"[^\w\\\"'`]" if sign["closing"] or sign["listed"] else r"[,;:)}\]>.]*(?:\s|\Z)"
        return _quoted_end(text, at, line, re.compile(rf"\Z|{ends}"))
    starts = not text[text.rfind("\n", 0, name.start()) + 1 : name.start()].strip(" \t-")
    whole_line = secret.endswith(("authorization", "cookie")) or (sign["sign"] == ":" and starts)
    if closing := _BRACKETS.get(text[at : at + 1], ""):
        end = text.find(closing, at) + 1 or line
        run = _RUN.match(text, end)
        return max(run.end() if run else end, line if whole_line and not sign["closing"] else 0)
    if sign["closing"]:  # a number in JSON
        rest = re.compile(r"[^\s,}\]]*").match(text, at)
        return rest.end() if rest else at
    if whole_line:
        return line
    run = _RUN.match(text, at)
    return run.end() if run else at


def _quoted_end(text: str, at: int, line: int, ends: re.Pattern[str]) -> int:
    r"""Return where a quoted value ends, and what is joined to it as in a shell's ``'it'\''s'``."""
    while opening := _QUOTED.match(text, at):
        escape, mark = opening["escape"], opening["mark"]
        close = re.escape(escape + mark)
        # within a quoted text, the quotes of another one are escaped: there a backslash more means that it goes on
        inner = rf"(?:(?!(?<!\\){close}).)*" if escape else rf"(?:\\.|{mark}{mark}(?=[^\s,:;)}}\]])|[^{mark}\\])*"
        body = re.compile(inner + close, re.DOTALL).match(text, opening.end())
        if body is None:
            return max(line, opening.end())
        at = body.end()
        if ends.match(text, at):
            return at
        if not _QUOTED.match(text, at):
            run = _RUN.match(text, at)
            return run.end() if run else at
    return at
