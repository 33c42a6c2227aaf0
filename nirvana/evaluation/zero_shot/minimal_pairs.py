"""The built-in probe: grammatical minimal pairs from templates, after the design of BLiMP (arXiv 1912.00582).

No network and no data set are needed. A model is right where the whole good sentence is more likely than the bad one.
Pairs come in couples (see `phenomena`), so a unigram model of any corpus is right half the time on each phenomenon.
"""

from __future__ import annotations

from nirvana.errors import TaskError
from nirvana.evaluation.zero_shot.phenomena import PHENOMENA, Draw, Pair

PAIRS = 100  # of each phenomenon
SEED = 0  # of the choice of words


def minimal_pairs(phenomenon: str, *, count: int = PAIRS) -> tuple[Pair, ...]:
    """`count` pairs of a phenomenon, without repetitions; the two pairs of a couple are adjacent.

    Args:
        phenomenon: a key of `PHENOMENA`, e.g. "anaphor-gender".
        count: number of pairs; a smaller count gives the first of a larger.

    Raises:
        TaskError: there is no such phenomenon.
    """
    if phenomenon not in PHENOMENA:
        raise TaskError(f"There is no phenomenon {phenomenon!r}.", f"Use {', '.join(PHENOMENA)}.")
    draw, found = Draw(f"{phenomenon} {SEED}"), dict[Pair, None]()
    while len(found) < count:
        couple = PHENOMENA[phenomenon].couple(draw)
        if not found.keys() & set(couple):
            found |= dict.fromkeys(couple)
    return tuple(found)[:count]
