"""API keys: who may ask, what for, and how much at once. Only digests of keys are held."""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.catalog import StartupError
from app.errors import OverloadedError, UnauthorizedError
from app.settings import Settings

_PREFIX = "sha256:"


@dataclass(eq=False)
class Key:
    """One key.

    name: whom it belongs to. digest: SHA-256 of the key, 32 bytes. models: names of the models that it may ask; None:
    all. max_requests: how many requests it may have under way; None: as many as the server takes. reloads: whether it
    may have checkpoints taken up anew. under_way: how many requests it has.
    """

    name: str
    digest: bytes
    models: frozenset[str] | None = None
    max_requests: int | None = None
    reloads: bool = False
    under_way: int = 0

    def enter(self) -> None:
        """A request begins. Raises `OverloadedError` when the key has as many as it may."""
        if self.max_requests is not None and self.under_way >= self.max_requests:
            message = f"the key {self.name!r} has {self.under_way} requests under way, as many as it may have"
            raise OverloadedError(message, retry_after=1)
        self.under_way += 1

    def leave(self) -> None:
        """A request of the key has ended."""
        self.under_way -= 1

    def may_ask(self, model: str) -> bool:
        return self.models is None or model in self.models


class Keys:
    """The keys of a server; without any, nobody needs one."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, authorization: str) -> Key | None:
        """Whose key a header `Authorization: Bearer KEY` bears; None where no key is needed.

        The time it takes does not depend on which key it is, or on how much of one is right. Raises
        `UnauthorizedError`.
        """
        if not self._keys:
            return None
        scheme, _, sent = authorization.partition(" ")
        digest = hashlib.sha256(sent.encode("latin-1")).digest()  # as headers are decoded
        found = [key for key in self._keys if secrets.compare_digest(digest, key.digest)]
        if scheme.lower() != "bearer" or not found:
            raise UnauthorizedError
        return found[0]

    def take_over(self, before: "Keys") -> None:
        """Count on from where the keys of the same names were that these replace."""
        counts = {key.name: key.under_way for key in before._keys}
        for key in self._keys:
            key.under_way = counts.get(key.name, 0)


def load_keys(settings: Settings) -> Keys:
    """The keys of the environment and of the file that the settings name. Raises `StartupError`, naming the line."""
    values = [value.get_secret_value() for value in settings.api_keys]
    keys = [Key(f"key-{i}", hashlib.sha256(v.encode()).digest(), reloads=True) for i, v in enumerate(values, 1)]
    if settings.api_keys_file is not None:
        keys += _read(settings.api_keys_file)
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise StartupError(f"CAROUSEL_API_KEYS_FILE: the name {name!r} stands there twice")
    return Keys(keys)


def new_key(
    name: str, models: Iterable[str] = (), max_requests: int | None = None, reloads: bool = False
) -> tuple[str, str]:
    """A new key, and its line for the file of keys, which does not hold it."""
    key = secrets.token_urlsafe(32)
    options = [f"models={','.join(models)}"] if models else []
    options += [f"requests={max_requests}"] if max_requests is not None else []
    options += ["reload"] if reloads else []
    return key, " ".join([name, _PREFIX + hashlib.sha256(key.encode()).hexdigest(), *options])


def _read(path: Path) -> list[Key]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"CAROUSEL_API_KEYS_FILE: {path} cannot be read ({error})") from None
    keys = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            try:
                keys.append(_parse(words))
            except ValueError as error:
                raise StartupError(f"CAROUSEL_API_KEYS_FILE: {path}, line {number}: {error}") from None
    if not keys:
        raise StartupError(f"CAROUSEL_API_KEYS_FILE: {path} holds no key; 'python -m app key NAME' makes one")
    return keys


def _parse(words: list[str]) -> Key:
    """`NAME sha256:DIGEST [models=A,B] [requests=N] [reload]`. Raises `ValueError`."""
    if len(words) < 2 or not words[1].startswith(_PREFIX):
        raise ValueError("a line is NAME sha256:DIGEST [models=A,B] [requests=N] [reload]")
    try:
        digest = bytes.fromhex(words[1].removeprefix(_PREFIX))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("the digest is not the 64 hexadecimal digits of a SHA-256")
    key = Key(words[0], digest)
    for option in words[2:]:
        name, _, value = option.partition("=")
        if option == "reload":
            key.reloads = True
        elif name == "models" and value:
            key.models = frozenset(value.split(","))
        elif name == "requests" and value.isdecimal() and int(value) > 0:
            key.max_requests = int(value)
        else:
            raise ValueError(f"{option!r} is none of models=A,B, requests=N (from 1), reload")
    return key
