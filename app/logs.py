"""The log: lines of text or of JSON, with one for each request. They never hold what users have written."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from app.settings import Settings

_requests = logging.getLogger("carousel.requests")


class TextFormatter(logging.Formatter):
    """`LEVEL logger: message`, and the fields of a record as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record) + "".join(f" {name}={value}" for name, value in _fields(record).items())


class JsonFormatter(logging.Formatter):
    """A JSON object for each record: time, level, logger, message, its fields, and an exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content)


def configure_log(settings: Settings) -> None:
    """Log to stderr as the settings say, from all parts of the process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])


def log_request(method: str, route: str, status: int, request_id: str, **more: Any) -> None:
    """One line for one request. route: its template, as a path may hold what a user wrote. more: what is known beside;
    None and empty texts are left out."""
    if _requests.isEnabledFor(logging.INFO):
        fields = {"route": route, "status": status, "request_id": request_id}
        fields |= {name: value for name, value in more.items() if value not in (None, "")}
        _requests.info(method, extra={"fields": fields})


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields
