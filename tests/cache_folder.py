"""Put bodies into a cache and read them back, as whoever stores and sends them would."""

from __future__ import annotations

import os

from superd.handlers.cache.store import Store

SIZE = 1 << 24
KEY = b"http://example.com/"


def new_store(folder, size=SIZE, largest=SIZE, **keys):
    return Store(str(folder / "cache"), size, largest, **keys)


def put(store, key, body, meta=b"meta", replaces=None):
    draft = store.begin(key)
    for at in range(0, len(body), 10_000):
        draft.write(body[at : at + 10_000])
    return draft.keep(meta, replaces)


def body_of(variant):
    """Read a body as whoever sends it would; None for a miss."""
    entry = variant.open()
    if entry is None:
        return None
    with entry:
        return entry.data if entry.fd == -1 else os.pread(entry.fd, entry.size + 1, 0)


def found(store, key=KEY):
    return [(one.meta, body_of(one)) for one in store.variants(key)]
