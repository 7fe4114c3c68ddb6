"""Limits of the process: as many file descriptors as the system allows."""

from __future__ import annotations

import contextlib
import resource


def raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors to the hard one, and return what it is now.

    Each transfer takes two or three. At the usual soft limit of 1,024, a few hundred transfers end in failures of
    accept() (EMFILE).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # where the system allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
