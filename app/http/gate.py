"""What every answer bears, whatever route gave it."""

import uuid

_API_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", _API_POLICY.encode()),
]
"""Of every answer. A page that loads something has a policy of its own."""


def new_request_id() -> str:
    return uuid.uuid4().hex
