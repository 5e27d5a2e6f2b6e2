from __future__ import annotations

import itertools
import json
import resource
from pathlib import Path

import pytest

from kdpipe import long_pairs
from kdpipe.tokenizer import Encoded, Tokenizer, load_tokenizer
from tests.tiny import tiny_teacher_folder

WORDS = ("cat", "the dog", "a")
LENGTHS = (0, 1, 2, 3, 4, 7, 20, 41)


def tokenizer(folder: Path, template: str) -> Tokenizer:
    """One whose pairs get special tokens in this way."""
    path = tiny_teacher_folder(folder) / "tokenizer.json"
    record = json.loads(path.read_bytes())
    cls, sep = ("[CLS]", 2), ("[SEP]", 3)
    made = {
        "as it is": record["post_processor"],
        "bert": {"type": "BertProcessing", "sep": sep, "cls": cls},
        "roberta": {
            "type": "RobertaProcessing",
            "sep": sep,
            "cls": cls,
            "trim_offsets": True,
            "add_prefix_space": True,
        },
        "none": None,
    }
    path.write_text(json.dumps(record | {"post_processor": made[template]}))
    return load_tokenizer(folder)


def as_lists(encoded: Encoded) -> list[list[int]]:
    assert encoded.second_at is not None
    return [encoded.ids.tolist(), encoded.lengths.tolist(), encoded.second_at.tolist()]


@pytest.mark.parametrize("template", ["as it is", "bert", "roberta", "none"])
def test_pairs_are_cut_as_the_backend_cuts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    made = tokenizer(tmp_path / "teacher", template)
    pairs = [
        (" ".join([WORDS[0]] * first), " ".join(itertools.islice(itertools.cycle(WORDS), second)))
        for first, second in itertools.product(LENGTHS, repeat=2)
    ]
    for limit in (4, 5, 8, 9, 16, 33):
        monkeypatch.setattr(long_pairs, "_MOST", 1000)
        theirs = made.encode([*pairs, "alone"], limit)
        monkeypatch.setattr(long_pairs, "_MOST", -1)
        ours = made.encode([*pairs, "alone"], limit)
        assert as_lists(ours) == as_lists(theirs)


def test_two_long_texts_take_no_more_than_both(tmp_path: Path) -> None:
    made = tokenizer(tmp_path / "teacher", "as it is")
    made.encode([("cat " * 100, "dog " * 100)], 16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoded = made.encode([("cat " * 5000, "dog " * 5000), ("cat", "dog")], 16)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert encoded.lengths.tolist() == [16, 5]
    assert grown << 10 < 100 << 20
