"""The English text that every CPython carries: docstrings and help topics, cut into sentences.

Nothing is imported or run: the `.py` files of the standard library are parsed. The text is that of
the running Python, so another version gives a slightly different corpus.
"""

from __future__ import annotations

import ast
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError
from kdpipe.sources.row import Row

SHORTEST, LONGEST = 20, 400
"""Characters of a sentence."""
MIN_WORDS = 4
PLAIN = 0.6
"""Share of a sentence that is plain words: the rest is names of code, numbers and marks."""

_TOPICS = "pydoc_data/topics.py"
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__phello__"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

_ITEM = re.compile(
    r"(?:[-*+o\u2022]|\(?(?:\d+|[a-z])[.)]|\[\d+\]|[\w*./-]+ ?(?::|--)|[:@][a-z][\w ]*:?)\s+(?=\S)"
)
_NOT_PROSE = re.compile(r"^\.\. |^[|+]|\S {3,}\S|^[-=~^\"'`#*+_.:|\s]{3,}$")
_ROLE = re.compile(r"(?:(?::[a-z]+)+:)?(?<!`)`~?([^`'<]+?)(?:\s*<[^`]*>)?`(?!`)_{0,2}")
_MARKUP = re.compile(r"(?<!\w)(\*\*?|``?)(?=\S)([^*`]+?)(?<=\S)\1(?!\w)")
_SUMMARY = re.compile(r"\A(.*[\w)\"'])(?=\s*(?:\n\s*\n|\Z))")
_FOOTNOTE = re.compile(r" \[\d+\]")
_END = re.compile(r"[.!?][\"')\u201d]*(?= (?:[\"'(\u201c]?[A-Z]|[\"\u201c]))")
_ABBREVIATION = re.compile(
    r"(?:\b(?:i\.?e|e\.?g|a\.k\.a|etc|vs|cf|resp|approx|incl|Dr|Mr|Mrs|St|Jr|No|Fig|Sec|[A-Z])|\.\.)\.$"
)
_SENTENCE = re.compile(r"[\"'(\u201c]?[A-Z].*[.!?][\"')\u201d]*")
_WORD = re.compile(r"(?<![\w.])[A-Za-z]+(?:['\u2019-][A-Za-z]+)*(?![\w(=])")


class PythonDocs(Frozen):
    """Docstrings of the standard library and the topics of `help()`: one sentence a row."""

    kind: Literal["python_docs"]

    def rows(self, root: Path) -> Iterator[Row]:
        """Sentences by file name, then by place; equal ones come more than once.

        Raises ArtifactError where the standard library is not there as `.py` files.
        """
        found = False
        for text in _texts(Path(sysconfig.get_path("stdlib"))):
            for sentence in sentences(text):
                found = True
                yield Row(sentence)
        if not found:
            raise ArtifactError(
                "this Python keeps its standard library in no .py files, so source python_docs has"
                " no text: use a full CPython, or a source of kind 'files'"
            )

    def state(self, root: Path) -> str:
        """What the text depends on: the version of this Python."""
        return f"python {platform.python_version()}"

    def paths(self, root: Path) -> list[str]:
        """Nothing: the text belongs to the Python, not to the project."""
        return []


def sentences(text: str) -> Iterator[str]:
    """The readable English sentences of a docstring, without code, tables and markup."""
    # One-line summaries often lack their full stop.
    for paragraph in _paragraphs(_SUMMARY.sub(r"\1.", text)):
        for sentence in _split(_plain(paragraph)):
            if _is_readable(sentence):
                yield sentence


def _texts(folder: Path) -> Iterator[str]:
    for path in _files(folder) if folder.is_dir() else ():
        tree = _parse(path)
        yield from _topics(tree) if path == folder / _TOPICS else _docstrings(tree)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            yield path
        elif path.is_dir() and path.name not in _SKIPPED:
            yield from _files(path)


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        # Old escapes in the standard library's own strings are no concern of the user.
        warnings.simplefilter("ignore")
        return ast.parse(path.read_bytes())


def _docstrings(tree: ast.Module) -> Iterator[str]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        text = ast.get_docstring(node)
        if text:
            yield text


def _topics(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ast.literal_eval(node.value).values()


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines as indent and text; doctests, literal blocks, tables and rules become empty ones."""
    literal: int | None = None
    doctest = False
    for line in text.expandtabs().splitlines():
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        doctest = bool(bare) and (doctest or bare.startswith(">>>"))
        if literal is not None and bare and indent <= literal:
            literal = None
        hidden = doctest or literal is not None or _NOT_PROSE.search(bare)
        yield indent, "" if hidden else bare
        if literal is None and bare.endswith("::"):
            literal = indent


def _paragraphs(text: str) -> Iterator[str]:
    """Wrapped lines joined; an empty line, another indent and the next item of a list end one."""
    block: list[str] = []
    margin: int | None = 0
    for indent, line in [*_prose(text), (0, "")]:
        item = _ITEM.match(line)
        if margin is None:
            margin = indent
        if block and (not line or item or indent != margin):
            yield " ".join(block)
            block = []
        if line and not block:
            # The second line of an item may hang under its first, or not.
            margin = None if item else indent
        if line:
            block.append(line[item.end() :] if item else line)


def _plain(paragraph: str) -> str:
    text = _ROLE.sub(r"\1", paragraph)
    text = _FOOTNOTE.sub("", _MARKUP.sub(r"\2", text))
    return " ".join(text.split())


def _split(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(paragraph):
        if not _ABBREVIATION.search(paragraph[: end.start() + 1]):
            yield paragraph[start : end.end()]
            start = end.end() + 1
    yield paragraph[start:]


def _is_readable(sentence: str) -> bool:
    if not SHORTEST <= len(sentence) <= LONGEST or not _SENTENCE.fullmatch(sentence):
        return False
    words = _WORD.findall(sentence)
    return len(words) >= MIN_WORDS and sum(map(len, words)) + len(words) >= PLAIN * len(sentence)
