"""Simulates one of several hosts: prints the hash of every row it makes, {kind: {"begin step": [hashes]}}.

    python -m tests.data.hosts ROOT HOSTS HOST BEGIN...

For each BEGIN it starts at that step, as a resumed run does, and continues to the last step.
"""

import hashlib
import json
import sys

from t5x_like.data.stream import Stream
from tests.data.rows import kinds

BATCH, STEPS = 8, 6


def hashes(batch) -> list[str]:
    """One hash per row, of all of its arrays."""
    names = sorted(batch)
    return [
        hashlib.sha256(b"".join(name.encode() + batch[name][row].tobytes() for name in names)).hexdigest()[:16]
        for row in range(len(batch[names[0]]))
    ]


def main(root: str, hosts: str, host: str, *begins: str) -> None:
    share = BATCH // int(hosts)
    start = int(host) * share
    hashed = {}
    for kind in kinds.KINDS:
        for begin in begins:
            stream = Stream(kinds.make(kind, root), BATCH, seed=3)
            for step in range(int(begin), STEPS):
                hashed.setdefault(kind, {})[f"{begin} {step}"] = hashes(stream.slice(step, start, start + share))
    print(json.dumps(hashed))


if __name__ == "__main__":
    main(*sys.argv[1:])
