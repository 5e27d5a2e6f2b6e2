"""Words of English that TinyBERT's augmentation leaves alone: they carry the grammar.

The words are those of the original, cut at apostrophes as texts are; question words and some
auxiliaries (`what`, `would`) are not among them there either.
"""

from __future__ import annotations

_PRONOUNS = """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she
    her hers herself it its itself they them their theirs themselves this that these those
"""
_VERBS = "am is are was were be been being have has had having do does did doing can will should"
_PLACE_AND_TIME = """
    about above after again against at before below between by down during for from further here in
    into of off on once out over than then there through to under until up while with now
"""
_JOINING = "a an and as because but if nor not no only or own so the too very just"
_QUANTITIES = "all any both each few more most other same some such"
_ENDS = "d ll m o re s t ve y"
"""What stands behind an apostrophe, or before one."""
_NEGATIONS = """
    ain aren couldn didn doesn don hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren
    won wouldn
"""
"""What stands before `'t`."""

STOP_WORDS = frozenset(
    " ".join((_PRONOUNS, _VERBS, _PLACE_AND_TIME, _JOINING, _QUANTITIES, _ENDS, _NEGATIONS)).split()
)
"""In lower case."""
