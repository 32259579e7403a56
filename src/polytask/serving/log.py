"""The log on stderr: one line of JSON for each request, and for whatever else is to be said."""

import json
import logging
import sys
import time
import warnings
from typing import Any

REQUESTS = "polytask.serving"


class Lines(logging.Formatter):
    """The lines of requests are JSON as they come; others get a time, a level and what they say."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == REQUESTS and record.levelno == logging.INFO:
            return record.getMessage()
        line = {
            "time": stamp(record.created), "level": record.levelname.lower(), "from": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def stamp(seconds: float) -> str:
    """A time as the log has it, from seconds since 1970."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _warn(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning of ours is for who reads the log; others are for those who develop."""
    if category.__module__.startswith("polytask"):
        logging.getLogger("polytask").warning("%s", message)


def start_log() -> None:
    """Sends requests and all warnings to stderr."""
    warnings.showwarning = _warn
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger(REQUESTS).setLevel(logging.INFO)
