"""Logs of a server: a JSON object a line, without transcripts, keys, queries or bodies."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from typing import Any, TextIO

EXTRA = "fields"
"""The name of a record's attribute with further values: `log.info("request", extra={EXTRA: {...}})`."""


class JsonLines(logging.Formatter):
    """Records as JSON.

    Of an exception its type and where it was raised are told; not its message, which may hold what somebody said.
    """

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, EXTRA, {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            frames = traceback.extract_tb(trace)
            values["error"] = kind.__name__
            values["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(values, ensure_ascii=False, default=str)


def write_logs(level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Have all that is logged in this process go to standard error as JSON, that of the web server too."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("redline").setLevel(level)
    # "ASGI callable returned without completing handshake": it did, by refusing a WebSocket with a reply.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "completing handshake" not in record.getMessage())
    return handler
