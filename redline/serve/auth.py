"""API keys: who calls, what they may do, and how often.

A key file is TOML, one table a key: `name`, `sha256` of the key (the key itself is shown once and kept nowhere),
`scopes`, and limits. Without a file everybody may do everything, which `ServeOptions` allows on this machine only.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from starlette.requests import HTTPConnection

from redline.errors import ConfigError
from redline.files import write_text
from redline.serve.api_errors import ApiError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Scope = Literal["transcribe", "jobs", "archive", "admin"]
SCOPES: tuple[str, ...] = get_args(Scope)
_PREFIX = "rl-"
_MOST_LENT = 10_000


@dataclass(frozen=True)
class Caller:
    """Who calls: the name of a key, or "" where there are no keys."""

    name: str = ""
    scopes: frozenset[str] = frozenset(SCOPES)
    per_minute: int | None = None
    """Requests in any 60 s."""
    concurrent: int | None = None
    """Requests at once."""
    is_lent: bool = False
    """Whether the key ends soon, and lends nothing itself."""


class ApiKeys:
    """The keys of a server, and what each of them is doing."""

    def __init__(self, keys: Mapping[str, Caller] | None = None) -> None:
        """`keys` are callers by the SHA-256 of their key in hex; None asks nobody for one."""
        self._keys = keys
        self._recent: dict[str, deque[float]] = {}
        self._lent: dict[str, tuple[Caller, float]] = {}  # by digest, with the end
        self._in_work = Counter[str]()
        self.now = time.monotonic

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Raises `ConfigError` for a file that is none."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("key", [])
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as a file of API keys: {error}") from error
        keys: dict[str, Caller] = {}
        for table in tables:
            unknown = set(table) - {"name", "sha256", "scopes", "per_minute", "concurrent"}
            scopes = frozenset(table.get("scopes", SCOPES))
            if unknown or not {"name", "sha256"} <= set(table) or scopes - set(SCOPES):
                raise ConfigError(
                    f"{path}: a key has {sorted(table)} and scopes {sorted(scopes)}; it needs name and sha256, and may "
                    f"have scopes (of {', '.join(SCOPES)}), per_minute and concurrent"
                )
            limits = {name: table.get(name) for name in ("per_minute", "concurrent")}
            keys[table["sha256"]] = Caller(table["name"], scopes, **limits)
        if not keys:
            raise ConfigError(f"{path}: no key; make one with redline serve --new-key NAME --keys {path}")
        return cls(keys)

    @property
    def are_asked_for(self) -> bool:
        """Whether callers need a key."""
        return self._keys is not None

    def check(self, connection: HTTPConnection, scope: Scope) -> Caller:
        """Who makes this request; raises `ApiError` for a key that is missing, unknown, busy or without the scope."""
        caller = self.known(connection)
        if scope not in caller.scopes:
            raise ApiError(403, f"this API key may not do this; it needs the scope {scope}", code="missing_scope")
        self._count(caller)
        return caller

    def known(self, connection: HTTPConnection) -> Caller:
        """Who makes this request, whatever it may do; raises `ApiError` for a key that is missing or unknown."""
        if self._keys is None:
            return Caller()
        given = key_of(connection)
        if given is None:
            raise ApiError(401, "an API key is needed: Authorization: Bearer KEY", code="missing_api_key")
        caller = self._of(given)
        if caller is None:
            raise ApiError(401, "this API key is not known", code="invalid_api_key")
        return caller

    def lend(self, caller: Caller, seconds: float) -> str:
        """A key that ends soon, for a program that is trusted less: it may transcribe, as often as the caller."""
        if caller.is_lent:
            raise ApiError(403, "this API key is lent and makes no others", code="lent_key")
        self._lent = {digest: lent for digest, lent in self._lent.items() if lent[1] > self.now()}
        if len(self._lent) >= _MOST_LENT:
            message = f"{len(self._lent)} keys are lent, which is the most; wait until some have ended"
            raise ApiError(429, message, code="too_many_secrets", retry_after_s=60)
        key = "ek_" + secrets.token_urlsafe(32)
        self._lent[digest_of(key)] = (
            replace(caller, scopes=frozenset({"transcribe"}), is_lent=True),
            self.now() + seconds,
        )
        return key

    def _borrower(self, digest: str) -> Caller | None:
        caller, end = self._lent.get(digest, (None, 0.0))
        return caller if end > self.now() else None

    def left(self, caller: Caller) -> tuple[int, float] | None:
        """Requests that the caller may still make now, and seconds until there are more; None without a limit."""
        if caller.per_minute is None:
            return None
        recent, now = self._recent.get(caller.name, deque()), self.now()
        taken = [when for when in recent if when > now - 60.0]
        return caller.per_minute - len(taken), round(taken[0] + 60.0 - now, 3) if taken else 0.0

    def find(self, connection: HTTPConnection) -> Caller | None:
        """Whose key a request carries; None without one that is known. Counts nothing."""
        given = None if self._keys is None else key_of(connection)
        return None if given is None else self._of(given)

    @contextmanager
    def in_work(self, caller: Caller | None) -> Iterator[None]:
        """While a request of a caller lasts; raises `ApiError` when as many as are allowed last already."""
        if caller is None or caller.concurrent is None:
            yield
            return
        if self._in_work[caller.name] >= caller.concurrent:
            message = f"{caller.concurrent} requests at once are allowed with this API key"
            raise ApiError(429, message, code="too_many_at_once", retry_after_s=1)
        self._in_work[caller.name] += 1
        try:
            yield
        finally:
            self._in_work[caller.name] -= 1

    def _of(self, given: str) -> Caller | None:
        digest = digest_of(given)
        assert self._keys is not None
        caller = next((each for known, each in self._keys.items() if hmac.compare_digest(known, digest)), None)
        return caller or self._borrower(digest)

    def _count(self, caller: Caller) -> None:
        if caller.per_minute is None:
            return
        recent, now = self._recent.setdefault(caller.name, deque()), self.now()
        while recent and recent[0] <= now - 60.0:
            recent.popleft()
        if len(recent) >= caller.per_minute:
            wait_s = recent[0] + 60.0 - now
            message = f"{caller.per_minute} requests a minute are allowed with this API key"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=wait_s)
        recent.append(now)


def key_of(connection: HTTPConnection) -> str | None:
    """The key that a request carries: `Authorization: Bearer KEY` (or Token, as Deepgram's clients send), or, where a
    browser cannot set headers for a WebSocket, the subprotocols `openai-insecure-api-key.KEY`, or `token, KEY`."""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token") and given.strip():
        return given.strip()
    if plain := connection.headers.get("api-key"):
        return plain
    protocols = [each.strip() for each in connection.headers.get("sec-websocket-protocol", "").split(",")]
    for protocol in protocols:
        if protocol.startswith("openai-insecure-api-key."):
            return protocol.removeprefix("openai-insecure-api-key.")
    if len(protocols) == 2 and protocols[0].lower() in ("token", "bearer"):
        return protocols[1]
    return None


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(path: Path, name: str, scopes: tuple[str, ...] = ("transcribe", "jobs", "archive")) -> str:
    """Make a key, add it to a file, which is made where there is none, and return it; raises `ConfigError`."""
    if not name.strip() or any(character in name for character in '"\\\n'):
        raise ConfigError(f"the name of a key is {name!r}; allowed is one line without quotes")
    if set(scopes) - set(SCOPES):
        raise ConfigError(f"scopes are {', '.join(scopes)}; allowed are {', '.join(SCOPES)}")
    key = _PREFIX + secrets.token_urlsafe(32)
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    entry = f'[[key]]\nname = "{name}"\nsha256 = "{digest_of(key)}"\nscopes = [{listed}]\n'
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before:
        ApiKeys.read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"{before}\n{entry}" if before else entry)
    path.chmod(0o600)
    return key
