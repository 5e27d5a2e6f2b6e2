"""Sentences out of docstrings: what is kept, what is left out, and nothing is run."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from kdpipe.errors import ArtifactError
from kdpipe.sources import PythonDocs, Row
from kdpipe.sources.python_docs import sentences
from tests.tables import write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open the old gate slowly", ["Open the old gate slowly."]),
        ("open the old gate slowly", []),
        ("Open the gate.", []),
        (
            "Close the gate when\nthe last  hen is in. Then go home,\ni.e. to Dr. Hill's farm! A.",
            ["Close the gate when the last hen is in.", "Then go home, i.e. to Dr. Hill's farm!"],
        ),
        (
            "Count all the sheep.\n\n>>> count(sheep)\nSheep. Forty two were counted.\n\nThen go"
            " to sleep at once.",
            ["Count all the sheep.", "Then go to sleep at once."],
        ),
        (
            "Feed them like this::\n\n    Give each hen a good handful.\n\n    Then close the door"
            " again.\n\nThe hens will thank you.",
            ["The hens will thank you."],
        ),
        (
            "How To Feed The Hens\n====================\n\n.. note:: This line is a directive.\n\n"
            "See :class:`~farm.Hen` and ``grain`` for *all* the details [2].",
            ["See farm.Hen and grain for all the details."],
        ),
        (
            "| a table with | some cells here. |\n+----+\nname    the name of the hen here.\n"
            "The table above is left out.",
            ["The table above is left out."],
        ),
        (
            "Arguments are these:\n  - One hen that is\n    laying eggs now.\n  - Two cocks that do"
            " not lay.\n  hen -- The hen that is asked for.\n  :returns: A basket full of eggs.",
            ["One hen that is laying eggs now.", "Two cocks that do not lay.",
             "The hen that is asked for.", "A basket full of eggs."],
        ),
        ("Call hen.lay(x=1, y=[2]) + {3: 4} now, it is == to 5.", []),
        ("It runs far too long" + " and on" * 60 + ".", []),
        ('He asked "are there eggs?" She said "no." "x" is a letter too.',
         ['He asked "are there eggs?"', '"x" is a letter too.'][:1]),
        ("See `the page of the farm <https://farm.example>`_ for opening hours.",
         ["See the page of the farm for opening hours."]),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert [*sentences(text)] == expected


def test_python_docs_reads_files_without_running_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    lib = tmp_path / "stdlib"
    write(
        lib / "b.py",
        '"""The second module of all."""\nraise SystemExit("run")\nclass A:\n'
        '    """A class with one method."""\n    async def f(self):\n        "\\d Not a capital'
        ' first."\n        def g(): "An inner function of it."\ndef h():\n    """The very last of'
        ' these."""\n',
    )
    write(lib / "a/z.py", b'# coding: latin-1\n"""The na\xefve module goes first."""\n')
    write(
        lib / "pydoc_data/topics.py",
        "topics = {'x': 'One topic\\n*********\\n\\nThe \"x\" statement is quite rare.\\n',\n"
        " 'y': 'Nobody has seen it in years.'}\n",
    )
    for skipped in ("test/a.py", "a/tests/a.py", "site-packages/a.py", "idlelib/idle_test/a.py"):
        write(lib / skipped, '"""This is not to be read."""')
    write(lib / "test/broken.py", "def (:")
    rows = [*PythonDocs(kind="python_docs").rows(tmp_path)]
    assert rows == [
        Row("The naïve module goes first."),
        Row("The second module of all."),
        Row("A class with one method."),
        Row("An inner function of it."),
        Row("The very last of these."),
        Row('The "x" statement is quite rare.'),
        Row("Nobody has seen it in years."),
    ]


def test_python_docs_without_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib.zip"))
    with pytest.raises(ArtifactError) as caught:
        next(PythonDocs(kind="python_docs").rows(tmp_path))
    assert str(caught.value) == (
        "this Python keeps its standard library in no .py files, so source python_docs has no text:"
        " use a full CPython, or a source of kind 'files'"
    )


def test_python_docs_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real text of the running Python, from a part of its library that has every kind of it."""
    library = Path(sysconfig.get_path("stdlib"))
    assert len(next(PythonDocs(kind="python_docs").rows(tmp_path)).text) >= 20
    for name in ("argparse.py", "pydoc_data/topics.py", "statistics.py", "unittest/case.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(library / name, tmp_path / name)
    shutil.copytree(library / "email", tmp_path / "email")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    before = {*sys.modules}
    rows = [*PythonDocs(kind="python_docs").rows(tmp_path)]
    assert {name for name in {*sys.modules} - before if not name.startswith("encodings.")} == set()
    found = {row.text for row in rows}
    assert 2_500 < len(found) < 5_000
    assert all(row.text_pair is None and row.label is None for row in rows)
    assert 'The "pass" statement' not in found
    assert all(20 <= len(text) <= 400 and "  " not in text for text in found)
    assert not any(mark in text for text in found for mark in ("::=", "\n", "\t"))
    assert sum(text[-1] == "." for text in found) > 0.97 * len(found)
