"""The names of media types that Anthropic takes. Pure functions."""

from __future__ import annotations

PDF = "application/pdf"
TEXT = "text/plain"
IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

# Other names of those types, which browsers, operating systems and libraries use; Anthropic refuses them.
_REGISTERED = {
    **dict.fromkeys(
        ("image/jpg", "image/pjpeg", "image/jpe", "image/jfif", "image/x-jpeg", "image/x-jpg"), "image/jpeg"
    ),
    "image/x-png": "image/png",
    "image/x-gif": "image/gif",
    "image/x-webp": "image/webp",
    **dict.fromkeys(("application/x-pdf", "application/acrobat", "text/pdf", "text/x-pdf"), PDF),
}


def bare_type(media_type: str) -> str:
    """The registered name of a media type, without parameters; "" for application/octet-stream, which says nothing."""
    bare = media_type.partition(";")[0].strip().lower()
    return "" if bare == "application/octet-stream" else _REGISTERED.get(bare, bare)


def registered(media_type: str) -> str:
    """The media type, with its registered name if it has another one."""
    return _REGISTERED.get(media_type.partition(";")[0].strip().lower(), media_type)
