"""Name the media type of a file by its suffix.

A table of our own: the types that are on the web, the same on every machine. The
mimetypes module reads /etc/mime.types, so that its answers differ from host to host,
and costs an import of urllib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

OTHER: Final = "application/octet-stream"
_LARGEST: Final = 1 << 20

TYPES: Final = {
    "html": "text/html",
    "htm": "text/html",
    "xhtml": "application/xhtml+xml",
    "css": "text/css",
    "js": "text/javascript",
    "mjs": "text/javascript",
    "txt": "text/plain",
    "text": "text/plain",
    "log": "text/plain",
    "conf": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "vtt": "text/vtt",
    "ics": "text/calendar",
    "xml": "application/xml",
    "rss": "application/rss+xml",
    "atom": "application/atom+xml",
    "json": "application/json",
    "map": "application/json",
    "jsonld": "application/ld+json",
    "webmanifest": "application/manifest+json",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "wasm": "application/wasm",
    "pdf": "application/pdf",
    "ps": "application/postscript",
    "epub": "application/epub+zip",
    "zip": "application/zip",
    "gz": "application/gzip",
    "tgz": "application/gzip",
    "bz2": "application/x-bzip2",
    "xz": "application/x-xz",
    "zst": "application/zstd",
    "7z": "application/x-7z-compressed",
    "tar": "application/x-tar",
    "deb": "application/vnd.debian.binary-package",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "svg": "image/svg+xml",
    "ico": "image/x-icon",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "webm": "video/webm",
    "ogv": "video/ogg",
    "mov": "video/quicktime",
    "ttf": "font/ttf",
    "otf": "font/otf",
    "woff": "font/woff",
    "woff2": "font/woff2",
}


def type_of(name: bytes, types: Mapping[str, str] = TYPES) -> str:
    """Return the Content-Type of a file of this name."""
    _, dot, suffix = name.rpartition(b".")
    if not dot:
        return OTHER
    kind = types.get(suffix.decode("latin-1").lower(), OTHER)
    # Text without a charset is guessed at, and a guess can be made to run (RFC 2854 4).
    return f"{kind}; charset=utf-8" if kind[:5] == "text/" else kind


def read_types(path: str) -> dict[str, str]:
    """Read a file in the form of /etc/mime.types: it adds to the table, and wins.

    Raises OSError, and ValueError for a line that is not `type/subtype suffix...`.
    """
    with open(path, "rb") as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError("more than 1 MiB; no table of types is")
    types = dict(TYPES)
    for number, line in enumerate(text.decode("latin-1").splitlines(), 1):
        kind, *suffixes = line.partition("#")[0].split() or [""]
        if not kind:
            continue
        main, slash, sub = kind.partition("/")
        if not (slash and _is_plain(main) and _is_plain(sub)):
            raise ValueError(f"line {number}: {kind[:40]!r} is no type")
        types |= {suffix.lstrip(".").lower(): kind for suffix in suffixes}
    return types


def _is_plain(word: str) -> bool:
    """Tell whether this is a name of RFC 6838 4.2."""
    return (
        word.isascii()
        and word.replace(".", "")
        .replace("-", "")
        .replace("+", "")
        .replace("_", "")
        .isalnum()
    )
