"""Options of a server: where it listens, what it holds at once, how long it waits."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from redline.errors import ConfigError


def default_data_dir() -> Path:
    """Where a server keeps its database and uploads: `REDLINE_DATA`, or the user's folder for data."""
    if named := os.environ.get("REDLINE_DATA"):
        return Path(named)
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "redline"


@dataclass(frozen=True)
class ServeOptions:
    """What a server takes, holds and waits for; the defaults suit one machine with the bundled model."""

    host: str = "127.0.0.1"
    port: int = 8020
    data_dir: Path = field(default_factory=default_data_dir)
    """Database, uploads that wait and results; made when it is first needed."""
    database_url: str | None = None
    """postgresql://..., or None for a SQLite file in `data_dir`."""
    keys_file: Path | None = None
    """API keys (`redline.serve.auth`); without it everybody may call, which is allowed on a loopback address only."""
    model_names: Mapping[str, str] = field(default_factory=dict)
    """Further names under which clients may ask for the model, each with the name of the loaded one."""
    any_model_name: bool = True
    """Whether every name in a request means the loaded model; otherwise unknown names are refused."""
    max_upload_bytes: int = 2 << 30
    max_active: int = 64
    """Recordings that are read and recognized at once; more wait in order."""
    max_waiting: int = 256
    """Requests that wait for their turn; more are refused with 429 and Retry-After."""
    max_streams: int = 64
    """Live streams at once; more are refused."""
    idle_s: float = 15.0
    """The longest that a client may send nothing while it uploads."""
    least_bytes_per_s: int = 1_000
    """Uploads that are slower than this on average, after `idle_s`, are ended."""
    base_timeout_s: float = 60.0
    """A recording may take this long and `timeout_factor` times its duration."""
    timeout_factor: float = 5.0
    cors_origins: tuple[str, ...] = ()
    """Web pages of other hosts that may call; none by default."""
    drain_s: float = 30.0
    """How long a stop waits for what is being recognized."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port is {self.port}; allowed are 0 (any free one) to 65535")
        for name in ("max_upload_bytes", "max_active", "max_streams"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; allowed are 1 and above")
        for name in ("idle_s", "base_timeout_s", "drain_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name):g}; allowed are seconds above 0")
        if self.keys_file is None and not self.is_local:
            raise ConfigError(
                f"host is {self.host}, which other machines reach, and there are no API keys; make one with "
                "redline serve --new-key NAME --keys FILE, and start with --keys FILE; or listen on 127.0.0.1"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
