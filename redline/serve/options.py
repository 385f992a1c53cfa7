"""Options of a server: where it listens, what it holds at once, how long it waits."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from redline.errors import ConfigError
from redline.types import listed


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
    wyoming_port: int | None = None
    """Of the Wyoming protocol, which has no keys; None: it is not spoken."""
    wyoming_host: str = "127.0.0.1"
    data_dir: Path = field(default_factory=default_data_dir)
    """Database, uploads that wait and results; made when it is first needed."""
    database_url: str | None = None
    """postgresql://..., or None for a SQLite file in `data_dir`."""
    pipelines_dir: Path | None = None
    """A folder of pipelines (TOML), which jobs ask for by the names of their files."""
    keys_file: Path | None = None
    """API keys (`redline.serve.auth`); without it everybody may call, which is allowed on a loopback address only."""
    model_names: tuple[str, ...] = ()
    """Further names under which clients may ask for the model, whichever is loaded."""
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
    job_slots: int = 4
    """Jobs that are worked on at once, behind everybody who waits for an answer; 0: this server takes jobs and leaves
    them to others on the same database."""
    job_attempts: int = 3
    """A job is given up when it was begun so often without one window more of it."""
    max_queued_jobs: int = 10_000
    """Jobs that wait; more are refused with 429 and Retry-After."""
    lease_s: float = 30.0
    """A job whose server has not been heard of for so long is taken over."""
    allow_url_hosts: tuple[str, ...] = ()
    """Hosts from which jobs may fetch recordings, whatever addresses they have; "*" is every host with a public one."""
    upload_keep_s: float = 86_400.0
    """A resumable upload may rest for so long."""
    keep_audio: bool = True
    """Whether recordings stay with their transcripts in the archive, to be heard there; otherwise they are deleted when
    their job is over."""
    archive_requests: bool = False
    """Whether the archive keeps transcripts of requests, too, where these do not say; the archive has all of jobs."""
    retention_days: float | None = None
    """Jobs, transcripts and recordings are deleted so long after they are over; None keeps them."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of other hosts that may call; none by default."""
    drain_s: float = 30.0
    """How long a stop waits for what is being recognized."""

    def __post_init__(self) -> None:
        for name in ("model_names", "allow_url_hosts", "cors_origins"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        for name in ("port", "wyoming_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port < 65536:
                raise ConfigError(f"{name} is {port}; allowed are 0 (any free one) to 65535")
        for name in ("max_upload_bytes", "max_active", "max_streams", "job_attempts", "max_queued_jobs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; allowed are 1 and above")
        for name in ("idle_s", "base_timeout_s", "drain_s", "lease_s", "upload_keep_s", "retention_days"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name):g}; allowed are seconds above 0")
        if self.job_slots < 0:
            raise ConfigError(f"job_slots is {self.job_slots}; allowed are 0 and above")
        if self.keys_file is None and not self.is_local:
            raise ConfigError(
                f"host is {self.host}, which other machines reach, and there are no API keys; make one with "
                "redline serve --new-key NAME --keys FILE, and start with --keys FILE; or listen on 127.0.0.1"
            )

    @property
    def max_requests(self) -> int:
        """HTTP requests and WebSockets at once, of all kinds; more are refused with 503 and Retry-After."""
        return 2 * (self.max_active + self.max_waiting + self.max_streams) + 64

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
