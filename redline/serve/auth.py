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
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Caller:
    """Who calls: the name of a key, or "" where there are no keys."""

    name: str = ""
    scopes: frozenset[str] = frozenset(SCOPES)
    per_minute: int | None = None
    """Requests in any 60 s."""
    concurrent: int | None = None
    """Requests at once."""


class ApiKeys:
    """The keys of a server, and what each of them is doing."""

    def __init__(self, keys: Mapping[str, Caller] | None = None) -> None:
        """`keys` are callers by the SHA-256 of their key in hex; None asks nobody for one."""
        self._keys = keys
        self._recent: dict[str, deque[float]] = {}
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
        if self._keys is None:
            return Caller()
        given = key_of(connection)
        if given is None:
            raise ApiError(401, "an API key is needed: Authorization: Bearer KEY", code="missing_api_key")
        digest = digest_of(given)
        caller = next((each for known, each in self._keys.items() if hmac.compare_digest(known, digest)), None)
        if caller is None:
            raise ApiError(401, "this API key is not known", code="invalid_api_key")
        if scope not in caller.scopes:
            raise ApiError(403, f"this API key may not do this; it needs the scope {scope}", code="missing_scope")
        self._count(caller)
        return caller

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
    browser cannot set headers for a WebSocket, the subprotocol `openai-insecure-api-key.KEY`."""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token") and given.strip():
        return given.strip()
    if plain := connection.headers.get("api-key"):
        return plain
    for protocol in connection.headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith("openai-insecure-api-key."):
            return protocol.strip().removeprefix("openai-insecure-api-key.")
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
