"""Connection strings and the names of secrets: which parts of a text are secret by where they stand.

A connection string is read by libpq's own rules, documented in section "Connection Strings" of PostgreSQL's manual:
``key=value`` pairs with quotes and backslashes, or a URI with several hosts and percent-encoding; without psycopg,
which the core does not need. Other systems' strings (``redis://``, ``Server=h;Pwd=x``) have the same parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MASK = "***"
HOW_TO_WRITE = (
    "write postgresql://USER:PASSWORD@HOST/DATABASE with the signs of the password percent-encoded (@ is %40, "
    "/ is %2F), or leave the password to PGPASSWORD or a pgpass file"
)

_KEY = (
    "(?:api|access|secret|private|sign(?:ing|ature)?|encryption|decryption|master|account|auth|licen[cs]e|session|storage"
    "|scram_client|scram_server|subscription)_?keys?(?:_base)?"
)
_NAME = re.compile(
    rf"""(?:.*(?:password|passwd|passphrase|passcode|secret|credential)s?
    | (?:.*_)?(?:.*db|.*pg|sql|old|new|user|my|mysql)?_?pwd
    | (?:.*_)?(?:db|user|admin|root|pg|smtp|redis|mysql|http|proxy)_?pass
    | (?:.*_)?{_KEY} | .*(?:secret|api)_?key
    | (?:.*_)?(?:proxy_?)?authorization | (?:.*_)?(?:set_?)?cookie | (?:.*_)?jwt
    | (?:.*_)?(?:.*(?:auth|access|api|refresh|id|session|bot|bearer|csrf|xsrf|user|security|deploy|hub))?token)
    (?:_?\d+|_(?:hash|value|text|old|new|plain))?""",
    re.VERBOSE,
)
# a token of a language model is no secret: time_per_output_token, eos_token, max_new_token
_NO_SECRET = re.compile(
    r"(?:.*_)?(?:per|output|input|prompt|eos|bos|pad|unk|cls|sep|mask|next|first|last|max|min|num|each|every|stop|special"
    r"|end|start|new|completion|decode|prefill|cached|draft|image|audio|generated|text|byte)_?token"
)
_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]*:)*//", re.IGNORECASE)
_PORTS = re.compile(r"(?:\[[^\]@]*\]|[^\[\]:@]*)(?::\d*)?")  # one host of an authority: a name, an address or [IPv6]
_HEAD = re.compile(r"([^=\s]+)\s*=\s*")
_IN_QUOTES = re.compile(r"'((?:\\.|[^'\\])*)'", re.DOTALL)
_UNQUOTED = re.compile(r"((?:\\.|\\\Z|[^\s\\])*)", re.DOTALL)
_PIECE = re.compile(r"([?&;])([A-Za-z_][\w.%-]*)=([^&;]*)")
# what may hold an "@" behind a URI's "?" without being the rest of a password that nobody encoded
_PLAIN_KEYS = {
    "application_name", "fallback_application_name", "options", "user", "host", "service", "passfile", "dbname",
}  # fmt: skip
_KEYWORDS = _PLAIN_KEYS | {
    "password", "hostaddr", "port", "connect_timeout", "client_encoding", "sslmode", "sslcert", "sslkey", "sslpassword",
    "sslrootcert", "sslcrl", "channel_binding", "gssencmode", "krbsrvname", "target_session_attrs",
    "load_balance_hosts", "require_auth", "keepalives", "tcp_user_timeout",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Dsn:
    """What may be known of a connection string.

    Attributes:
        public: the string without its passwords; it connects too, where the password comes from elsewhere.
        secret: whether something was left out.
        clear: it can be read in one way only; a raw ``@`` or ``/`` in a URI's password, or an open quote, is not clear.
            All that may be secret is then left out of ``public``, which need not be a whole connection string any more.
    """

    public: str
    secret: bool
    clear: bool


def snake(name: str) -> str:
    """Return a name in small letters, its words joined by underscores.

    >>> snake("accessToken"), snake("X-Api-Key"), snake("PGPASSWORD")
    ('access_token', 'x_api_key', 'pgpassword')
    """
    return re.sub(r"[^0-9A-Za-z]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()


def is_secret(name: str) -> bool:
    """Whether a value with this name is a secret, such as ``PGPASSWORD`` or ``hf_token``; ``max_tokens`` is none."""
    words = snake(name)
    return bool(_NAME.fullmatch(words)) and not _NO_SECRET.fullmatch(words)


def read_dsn(text: str) -> Dsn:
    r"""Read a connection string; a text that is none is public as it is.

    >>> read_dsn("postgresql://me:p%40ss@h1,h2:5433/db?sslmode=require").public
    'postgresql://me@h1,h2:5433/db?sslmode=require'
    >>> read_dsn(r"host=db password='it\'s' dbname=x").public
    'host=db dbname=x'
    >>> read_dsn("postgresql://me:p@ss/w@h/db")
    Dsn(public='postgresql://me@h/db', secret=True, clear=False)
    """
    scheme = _SCHEME.match(text)
    if scheme:
        public, clear = _uri(text[scheme.end() :])
        public = scheme[0] + public
    else:
        public, clear = _conninfo(text)
    return Dsn(public=public, secret=public != text, clear=clear)


def is_dsn(text: str) -> bool:
    """Whether a text is surely meant as a connection string: a URI with a user, or pairs of libpq's own keywords."""
    scheme = _SCHEME.match(text)
    if scheme:
        return not re.search(r"\s", text) and ("@" in text or "?" in text)
    pairs = pairs_of(text)
    return bool(pairs) and all(name in _KEYWORDS for name, *_ in pairs or [])


def _uri(rest: str) -> tuple[str, bool]:
    """Return what is public of a URI behind its ``//``, and whether it is clear."""
    first = re.match(r"[^@/]*@", rest)  # libpq looks for the user no further than the first slash
    user = first[0][:-1] if first else ""
    behind = rest[len(user) + 1 :] if first else rest
    place, _, query = behind.partition("?")
    hosts, _, path = place.partition("/")
    clear = all(_PORTS.fullmatch(h) for h in hosts.split(",")) and "@" not in path
    named = [piece.partition("=") for piece in re.split("[&;]", query)]
    clear &= all("@" not in k and ("@" not in v or snake(k) in _PLAIN_KEYS or is_secret(k)) for k, _, v in named)
    if clear or rest.startswith("/"):  # without an authority, as in sqlite:////path, there is no user
        return (user.partition(":")[0] + "@" if first else "") + _pieces(behind), True
    name, colon, unsure = rest.partition(":")
    if not colon:
        return _pieces(rest), False
    _, at, last = unsure.rpartition("@")
    return _pieces(f"{name}@{last}" if at else name), False


def _pieces(text: str) -> str:
    """Take secret ``name=value`` pieces out of what stands behind ``?``, ``&`` and ``;``."""
    kept = _PIECE.sub(lambda m: "" if is_secret(m[2]) and m[1] != "?" else m[1] if is_secret(m[2]) else m[0], text)
    return re.sub(r"\?(?:&|$)", lambda m: "?" if m[0] == "?&" else "", kept)


def pairs_of(text: str) -> list[tuple[str, str, int, int]] | None:
    """Read ``key=value`` pairs as libpq does; None where it would refuse them.

    Returns:
        Name, value, and where the pair begins and ends in the text.
    """
    pairs, at = [], len(text) - len(text.lstrip())
    while at < len(text):
        head = _HEAD.match(text, at)
        if head is None:
            return None
        form = _IN_QUOTES if text[head.end() : head.end() + 1] == "'" else _UNQUOTED
        value = form.match(text, head.end())
        if value is None:
            return None
        pairs.append((head[1], re.sub(r"\\(.?)", r"\1", value[1], flags=re.DOTALL), at, value.end()))
        at = value.end() + len(text[value.end() :]) - len(text[value.end() :].lstrip())
    return pairs


def _conninfo(text: str) -> tuple[str, bool]:
    pairs = pairs_of(text)
    begins = re.match(r"\s*[A-Za-z_]\w*\s*=", text)
    if pairs is None or not all(re.fullmatch(r"[A-Za-z_]\w*", name) for name, *_ in pairs):
        if begins is None:  # a path with an "=", perhaps
            return text, False
        secret = next((m for m in re.finditer(r"([A-Za-z_]\w*)\s*=", text) if is_secret(m[1])), None)
        return (text[: secret.start()].rstrip() if secret else text), False
    kept = [_pair(name, value, text[begin:end]) for name, value, begin, end in pairs if not is_secret(name)]
    whole = kept == [text[begin:end] for _, _, begin, end in pairs]
    # something must be left of it: an empty text means a server of one's own to some targets
    return text if whole else " ".join(kept) or "connect_timeout=10", True


def _pair(name: str, value: str, written: str) -> str:
    """Return a pair as it was written; without the secrets in its value where that is a connection string itself."""
    inner = _pieces(f";{value}")[1:] if ";" in value else value
    inner = read_dsn(inner).public if "://" in inner or "=" in inner else inner
    return written if inner == value else f"{name}={quoted(inner)}"


def quoted(value: str) -> str:
    """Return a value as it stands in a connection string of pairs."""
    plain = re.fullmatch(r"[^\s'\\]+", value)
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
