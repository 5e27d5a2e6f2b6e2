"""How well words are tagged: entities of B- I- tags, and single tags such as parts of speech.

Tags are read leniently, as conlleval does, because a model's output need not be well-formed: an
entity also starts at an I- without a B-, and ends where the type changes. One reading does for
IOB1, IOB2 (BIO), BIOES and BILOU, since their letters do not contradict each other: L is E, U is S.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Scheme = Literal["BIO", "BIOES", "BILOU"]

_LETTERS: dict[Scheme, str] = {"BIO": "BI", "BIOES": "BIES", "BILOU": "BILU"}
_MARKS = frozenset("BIELSU")
_UNTYPED = "_"
"""The type of a B without a dash."""


class Entity(NamedTuple):
    """Some words on end, and what they are."""

    type: str
    first: int
    last: int
    """The place of its last word, which is part of it."""


class Scores(NamedTuple):
    """Shares in [0, 1]; 0.0 where there is nothing to divide by."""

    precision: float
    """Of the entities that were found, those that are right."""
    recall: float
    """Of the entities that are there, those that were found."""
    f1: float
    support: int
    """How many are there."""


def tag_scheme(tags: Iterable[str]) -> Scheme | None:
    """The first scheme that has all these tags; None where they mark no entities (NOUN, VERB).

    IOB1 has the letters of BIO and goes by that name.
    """
    letters = {tag if tag.startswith("O") else tag.partition("-")[0] for tag in tags}
    return next((name for name, known in _LETTERS.items() if letters <= {*known, "O"}), None)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one sentence in their order; each word is in one at most.

    `I-A I-A` is one; `B-A B-A`, `S-A I-A`, `E-A E-A` and `I-A I-B` are two.
    """
    found: list[Entity] = []
    is_open = False
    for place, tag in enumerate(tags):
        if tag == "O":
            is_open = False
            continue
        letter, _, kind = tag.partition("-")
        assert letter in _MARKS, f"{tag!r} marks no entity: see tag_scheme"
        kind = kind or _UNTYPED
        if is_open and letter in "IEL" and found[-1].type == kind:
            found[-1] = found[-1]._replace(last=place)
        else:
            found.append(Entity(kind, place, place))
        is_open = letter in "BI"
    return found


def entity_scores(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> Scores:
    """All entities of all sentences together (micro): right are type, first and last word alike.

    Sentences are read one by one, so that no entity reaches from one into the next.
    """
    both, mine, theirs = _tallies(predicted, gold)
    return _scores(both.total(), mine.total(), theirs.total())


def entity_table(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]
) -> dict[str, Scores]:
    """The scores of each type that was found or is there, in the order of their names."""
    both, mine, theirs = _tallies(predicted, gold)
    kinds = sorted(mine | theirs)
    return {kind: _scores(both[kind], mine[kind], theirs[kind]) for kind in kinds}


def token_accuracy(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> float:
    """Share of the words of all sentences whose tag is the right one; 0.0 without words."""
    right = words = 0
    for mine, theirs in _sentences(predicted, gold):
        right += sum(one == other for one, other in zip(mine, theirs, strict=True))
        words += len(theirs)
    return right / max(words, 1)


def _sentences(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]
) -> Iterable[tuple[Sequence[str], Sequence[str]]]:
    """Pairs of tags of the same sentence."""
    assert len(predicted) == len(gold), (len(predicted), len(gold))
    for number, (mine, theirs) in enumerate(zip(predicted, gold, strict=True)):
        assert len(mine) == len(theirs), (number, len(mine), len(theirs))
        # A tag alone is a sequence of strings, too: its letters would pass for tags.
        assert not isinstance(mine, str) and not isinstance(theirs, str), number
        yield mine, theirs


def _tallies(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Of each type: rightly found, found, there."""
    both, mine, theirs = Counter[str](), Counter[str](), Counter[str]()
    for here, there in _sentences(predicted, gold):
        found, known = entities(here), entities(there)
        both.update(entity.type for entity in {*found} & {*known})
        mine.update(entity.type for entity in found)
        theirs.update(entity.type for entity in known)
    return both, mine, theirs


def _scores(both: int, mine: int, theirs: int) -> Scores:
    return Scores(
        both / max(mine, 1), both / max(theirs, 1), 2 * both / max(mine + theirs, 1), theirs
    )
