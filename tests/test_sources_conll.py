"""Sentences in files of columns, and every mistake in such a file with its whole message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdpipe.errors import ArtifactError
from kdpipe.sources import Conll, Row
from kdpipe.sources import conll as module
from tests.tables import gzip_, write, zstd

NEWS = """-DOCSTART- -X- -X- O

Old NNP B-NP B-LOC
Mill NNP I-NP I-LOC
sings VBZ B-VP O
# # B-NP O
5 CD I-NP O

Rain NN B-NP O
"""

TREES = """# newdoc id = weather
# text = It rains and it snows . Ah
1\tIt\tit\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2-3\train's\t_\t_\t_\t_\t_\t_\t_\t_
2\train\train\tNOUN\tNN\t_\t0\troot\t_\t_
3\t's\tbe\tAUX\tVBZ\t_\t2\taux\t_\t_
3.1\tis\tbe\tVERB\tVBZ\t_\t_\t_\t_\t_

# sent_id = 2
1\t3-4\t3-4\tNUM\tCD\t_\t0\troot\t_\t_
2\tAh ja\tah\tINTJ\tUH\t_\t1\tx\t_\t_
"""


def rows(root: Path, *files: str, **keys: Any) -> list[Row]:
    return [*Conll(kind="conll", files=files, **keys).rows(root)]


def row(text: str, label: str) -> Row:
    """A row as a test writes it: words and tags with blanks between."""
    return Row(text, None, tuple(label.split()), tuple(text.split(" ")))


def refused(root: Path, data: str | bytes, **keys: Any) -> str:
    write(root / "a.conll", data)
    with pytest.raises(ArtifactError) as caught:
        rows(root, "a.conll", **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_sentences_of_words_and_tags(tmp_path: Path, codec: str, end: str) -> None:
    data = NEWS.replace("\n", end).encode()
    packed = {"": data, ".gz": gzip_(data), ".zst": zstd(data)}[codec]
    write(tmp_path / f"a.conll{codec}", packed)
    found = rows(tmp_path, f"a.conll{codec}")
    assert found == [row("Old Mill sings # 5", "B-LOC I-LOC O O O"), row("Rain", "O")]
    tags = rows(tmp_path, f"a.conll{codec}", label_column=1)
    assert [one.label for one in tags] == [("NNP", "NNP", "VBZ", "#", "CD"), ("NN",)]
    assert rows(tmp_path, f"a.conll{codec}", label_column=-3) == tags


def test_treebanks(tmp_path: Path) -> None:
    write(tmp_path / "a.conllu", "\ufeff" + TREES)
    found = rows(tmp_path, "a.conllu", word_column=1, label_column=3)
    assert found[0] == row("It rain 's", "PRON NOUN AUX")
    assert found[1] == Row("3-4 Ah ja", None, ("NUM", "INTJ"), ("3-4", "Ah ja"))
    assert len(found) == 2


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ("a O\n# O\n\n# O\n#b O\n", ["a #", "# #b"]),
        ("#a\tO\nb\tO\n#\tO\n", ["#a b #"]),
        ("#begin document (x); part 0\nb c d O\n\n#end document\n#begin document y\ne f g O\n",
         ["b", "e"]),
        ("a\tO\n\n# text = a\nb\tO\n", ["a", "b"]),
        ("# text = a\n\n#\na\tO\n", ["a"]),
    ],
)  # fmt: skip
def test_hashes_are_words_where_they_have_the_columns_of_words(
    tmp_path: Path, data: str, texts: list[str]
) -> None:
    write(tmp_path / "a.conll", data)
    assert [one.text for one in rows(tmp_path, "a.conll")] == texts


def test_ranges_are_words_where_the_first_column_has_the_words(tmp_path: Path) -> None:
    write(tmp_path / "a.conll", "3-4 O\n8.1 B\n")
    assert rows(tmp_path, "a.conll") == [row("3-4 8.1", "O B")]


def test_blanks_within_words_and_between_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.conll", "1\u00a0000    B\nno \t I\t\n \t \n \nend O  ")
    assert rows(tmp_path, "a.conll") == [
        Row("1\u00a0000 no", None, ("B", "I"), ("1\u00a0000", "no")),
        row("end", "O"),
    ]
    write(tmp_path / "b.conll", "New York \t B \nis\tO\n\n\u00a0\tO\n")
    assert rows(tmp_path, "b.conll") == [Row("New York is", None, ("B", "O"), ("New York", "is"))]


def test_without_labels(tmp_path: Path) -> None:
    write(tmp_path / "a.conll", "Rain\nfalls\n\nNow\n")
    found = rows(tmp_path, "a.conll", label_column=None)
    assert found == [Row("Rain falls", words=("Rain", "falls")), Row("Now", words=("Now",))]


def test_a_word_to_leave_out(tmp_path: Path) -> None:
    write(tmp_path / "a.conll", "-DOCSTART-\n\na O\n<pad> O\n-DOCSTART- O\nb -DOCSTART-\n")
    assert rows(tmp_path, "a.conll") == [row("a <pad> b", "O O -DOCSTART-")]
    some = rows(tmp_path, "a.conll", ignore_token="<pad>", label_column=None)
    assert [one.text for one in some] == ["-DOCSTART-", "a -DOCSTART- b"]
    every = rows(tmp_path, "a.conll", ignore_token=None, label_column=None)
    assert [one.text for one in every] == ["-DOCSTART-", "a <pad> -DOCSTART- b"]


def test_columns_may_differ_between_sentences(tmp_path: Path) -> None:
    write(tmp_path / "a.conll", "a x O\n\nb x y O\nc x y B\n")
    assert rows(tmp_path, "a.conll") == [row("a", "O"), row("b c", "O B")]


def test_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b.conll", "a.txt", "c/d.iob2.gz", "readme.md"):
        data = f"{name} O\n".encode()
        write(tmp_path / "set" / name, gzip_(data) if name.endswith("gz") else data)
    assert [one.text for one in rows(tmp_path, "set")] == ["a.txt", "b.conll", "c/d.iob2.gz"]
    # What is named may have any suffix.
    assert [one.text for one in rows(tmp_path, "set/*.md")] == ["readme.md"]
    source = Conll(kind="conll", files=("set", "set/*.md"))
    assert source.paths(tmp_path) == ["set", "set/readme.md"]
    before = source.state(tmp_path)
    write(tmp_path / "set" / "b.conll", "b.conll B\n")
    assert source.state(tmp_path) != before
    (tmp_path / "bare").mkdir()
    with pytest.raises(ArtifactError, match=r"bare is a folder without a file to read: allowed: "):
        rows(tmp_path, "bare")


@pytest.mark.parametrize(
    ("data", "keys", "message"),
    [
        (
            "a\tO\n\nb\tO\nc\n",
            {},
            "a.conll:4: 1 column, but line 3 of its sentence has 2: mend the line, or put a blank"
            " line between sentences",
        ),
        (
            "a O\n",
            {"word_column": 3},
            "a.conll:1: 2 columns, none is word_column 3: the first is 0; mend the line, or choose"
            " another",
        ),
        (
            "a O\n",
            {"label_column": -3},
            "a.conll:1: 2 columns, none is label_column -3: the first is 0 and the last -1; mend"
            " the line, choose another, or null for files without labels",
        ),
        (
            "a\nb\n",
            {},
            "a.conll:1: column 0 would be both word and label: mend the line, choose another"
            " column, or label_column: null for files without labels",
        ),
        ("a\tO\nb\t\n", {}, "a.conll:2: the label in column -1 is empty: mend it"),
        ("a\tO\n \tO\n", {}, "a.conll:2: the word in column 0 is empty: mend it"),
        ("a O\nb\n", {}, None),
        ("a O\n#b\nc O\n", {}, None),
        (b"a O\n\xe9 O\n", {}, "a.conll:2: byte 0xe9 is not UTF-8: convert the file"),
        (
            "\n# text = a\n\n",
            {},
            "a.conll is empty: no row has text; mend it, or take it out of 'files'",
        ),
        (
            gzip_(b"a O\n"),
            {},
            "a.conll:1: byte 0x8b is not UTF-8: convert the file",
        ),
    ],
)
def test_mistakes(tmp_path: Path, data: Any, keys: dict[str, Any], message: str | None) -> None:
    found = refused(tmp_path, data, **keys)
    assert found == message or (message is None and found.startswith("a.conll:2: 1 column, but"))


def test_a_sentence_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXT", 8)
    write(tmp_path / "a.conll", "abc O\nde\u00e9 O\n\nabc O\n")
    message = "a.conll:2: a sentence of more than 8 bytes: put blank lines between them"
    assert refused(tmp_path, "abc O\nde\u00e9 O\n") == message
    write(tmp_path / "a.conll", "abc O\n\u00e9 O\n\nabc O\n")
    assert len(rows(tmp_path, "a.conll")) == 2
