"""Texts that are changed a little at random, for fuzzing."""

from __future__ import annotations


def mutated(text, rng, inserts, most=4, targets=None):
    """A few changes: a byte, a cut-out, a repetition, an insert put in or for one of the targets, the rest gone.

    The targets are the inserts unless they are given.
    """
    for _ in range(rng.randint(1, most)):
        at, size = rng.randint(0, len(text)), rng.choice((1, 1, 2, 4, rng.randint(1, 60)))
        kind = rng.randrange(7)
        if kind == 0:
            text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + text[at + size :]
        elif kind == 2:
            text = text[: at + size] + text[at:]
        elif kind in (3, 4):
            text = text[:at] + rng.choice(inserts) + text[at:]
        elif kind == 5:
            target = rng.choice(targets or inserts)
            found = [n for n in range(len(text)) if text.startswith(target, n)]
            at = rng.choice(found or [at])
            text = text[:at] + rng.choice((b"", *inserts)) + text[at + len(target) :]
        elif rng.random() < 0.4:
            text = text[:at]
    return text
