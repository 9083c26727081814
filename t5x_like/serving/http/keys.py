"""API keys, of which a server knows only hashes.

A key is 256 random bits, so that its SHA-256 hash cannot be inverted by guessing, as that of a password could. The file has a
line of JSON per key: {"name": NAME, "sha256": HASH, "created": DATE}. To withdraw a key, remove its line and start the server
again.
"""

import dataclasses
import datetime
import hashlib
import hmac
import json
import os
import re
import secrets
from pathlib import Path

from t5x_like.types import PathLike

PREFIX = "t5x-"
HASH = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Keys:
    """Hashes of keys with the names of their owners, {hash: name}."""

    names: dict[str, str] = dataclasses.field(repr=False)

    @classmethod
    def load(cls, path: PathLike) -> "Keys":
        """Reads a file of keys.

        Raises:
          ValueError: it has no key, or a line that is none.
        """
        names = {}
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                name, digest = record["name"], record["sha256"]
            except (ValueError, KeyError, TypeError):
                name = digest = None
            if not isinstance(name, str) or not isinstance(digest, str) or not HASH.fullmatch(digest):
                raise ValueError(
                    f"{path}, line {number} is no API key; make one with `t5x_like serve --new_api_key=NAME`"
                )
            names[digest] = name
        if not names:
            raise ValueError(f"{path} has no API key; make one with `t5x_like serve --new_api_key=NAME`")
        return cls(names)

    def owner(self, key: str) -> str | None:
        """The name of a key's owner; None if the key is unknown. The time does not depend on how much of a key is right."""
        digest = hash_of(key)
        found = [name for known, name in self.names.items() if hmac.compare_digest(known, digest)]
        return found[0] if found else None


def hash_of(key: str) -> str:
    """The hash of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def create(path: PathLike, name: str) -> str:
    """Makes a key and appends its hash to a file, which only its owner may read; returns the key."""
    key = PREFIX + secrets.token_urlsafe(32)
    record = {"name": name, "sha256": hash_of(key), "created": datetime.date.today().isoformat()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return key
