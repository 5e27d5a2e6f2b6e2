"""Questions in every format, and every mistake in such a file with its whole message."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdpipe.errors import ArtifactError, UsageError
from kdpipe.sources import Row, Span, Squad
from kdpipe.sources.squad import Question
from tests.tables import encode_arrow, encode_jsonl, encode_parquet, gzip_, write, zstd

MILL = "The old mill stands by the river. Na\u00efve boats pass the mill."
TABLE: list[dict[str, Any]] = [
    {
        "id": "a1",
        "question": "What stands by the river?",
        "context": MILL,
        "answers": [
            {"text": "mill", "answer_start": 8},
            {"text": "The old mill", "answer_start": 0},
        ],
    },
    {
        "id": "a2",
        "question": " What pass? ",
        "context": MILL,
        "answers": [{"text": "Na\u00efve boats", "answer_start": 34}],
    },
    {"id": "b1", "question": "Who sleeps?", "context": "Nobody does.", "answers": []},
]
ROWS = [
    Row("What stands by the river?", MILL, Span(8, 12), None, 128),
    Row(" What pass? ", MILL, Span(34, 45), None, 128),
    Row("Who sleeps?", "Nobody does.", None, None, 128),
]


def published(table: list[dict[str, Any]]) -> bytes:
    """The same as JSON: an article for each paragraph."""
    articles: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        keys = {key: value for key, value in row.items() if key != "context"}
        articles.setdefault(row["context"], []).append(keys)
    data = [
        {"title": "t", "paragraphs": [{"context": context, "qas": qas}]}
        for context, qas in articles.items()
    ]
    return json.dumps({"version": "1.1", "data": data}).encode()


def in_lists(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of each question as one object of two lists."""
    return [
        {
            **row,
            "answers": {
                key: [one[key] for one in row["answers"]] for key in ("text", "answer_start")
            },
        }
        for row in table
    ]


def rows(root: Path, *files: str, **keys: Any) -> list[Row]:
    return [*Squad(kind="squad", files=files, **keys).rows(root)]


def refused(root: Path, name: str, data: bytes | str) -> str:
    write(root / name, data)
    with pytest.raises(ArtifactError) as caught:
        rows(root, name)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("a.json", published),
        ("a.json.gz", lambda table: gzip_(published(table))),
        ("a.json.zst", lambda table: zstd(published(table))),
        ("a.jsonl", encode_jsonl),
        ("a.jsonl.gz", lambda table: gzip_(encode_jsonl(table))),
        ("a.parquet", encode_parquet),
        ("a.arrow", encode_arrow),
        ("a.jsonl", lambda table: encode_jsonl(in_lists(table))),
        ("a.parquet", lambda table: encode_parquet(in_lists(table))),
    ],
)
def test_every_format(tmp_path: Path, name: str, encode: Callable[..., bytes]) -> None:
    write(tmp_path / name, encode(TABLE))
    assert rows(tmp_path, name) == ROWS
    assert rows(tmp_path, name, doc_stride=7) == [row._replace(doc_stride=7) for row in ROWS]
    found = [*Squad(kind="squad", files=(name,)).questions(tmp_path)]
    assert found[0] == Question("a1", ROWS[0].text, MILL, (("mill", 8), ("The old mill", 0)))
    assert [one.id for one in found] == ["a1", "a2", "b1"]
    assert found[2].answers == ()


def test_questions_without_answers_and_blank_ones(tmp_path: Path) -> None:
    table = copy.deepcopy(TABLE)
    table[0]["question"] = " "
    table[1]["answers"] = None
    table.append({**TABLE[0], "id": 7, "context": "\u00a0"})
    write(tmp_path / "a.jsonl", encode_jsonl(table))
    assert [row.label for row in rows(tmp_path, "a.jsonl")] == [None, None]
    for one in table:
        del one["answers"]
    write(tmp_path / "a.json", published(table))
    table[3]["id"] = "b2"
    write(tmp_path / "a.jsonl", encode_jsonl(table))
    write(tmp_path / "a.parquet", encode_parquet(table))
    write(tmp_path / "a.arrow", encode_arrow(table))
    for suffix in ("json", "jsonl", "parquet", "arrow"):
        assert [(row.text, row.label) for row in rows(tmp_path, f"a.{suffix}")] == [
            (" What pass? ", None),
            ("Who sleeps?", None),
        ]


def test_folders_and_unknown_formats(tmp_path: Path) -> None:
    write(tmp_path / "set" / "b.json", published(TABLE))
    write(tmp_path / "set" / "a.parquet", encode_parquet(TABLE))
    write(tmp_path / "set" / "readme.txt", "no questions")
    assert rows(tmp_path, "set") == [*ROWS, *ROWS]
    with pytest.raises(UsageError) as caught:
        rows(tmp_path, "set/readme.txt")
    assert str(caught.value).startswith(f"{tmp_path}/set/readme.txt: unknown format '.txt': ")
    with pytest.raises(ArtifactError, match="does not exist"):
        rows(tmp_path, "c.json")


def changed(**keys: Any) -> bytes:
    """The table with other values in its second question."""
    table = copy.deepcopy(TABLE)
    table[1] |= keys
    return published(table)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "a.json: not valid JSON (Expecting property name enclosed in double quotes): mend the"
              " file"),
        ("[" * 99_999, None),
        (b"\xff\xff\xff", None),
        ("[]", "a.json: no list 'data': mend it, or is it not SQuAD v1.1?"),
        ('{"data": [{"paragraphs": [1]}]}',
         "a.json: data 0, paragraphs 0 is no object: mend it, or is it not SQuAD v1.1?"),
        ('{"data": [{"paragraphs": [{"context": "x"}]}]}',
         "a.json: data 0, paragraphs 0: no list 'qas': mend it, or is it not SQuAD v1.1?"),
        ('{"data": [{"paragraphs": [{"qas": [{"id": "a", "question": "b"}]}]}]}',
         "a.json: data 0, paragraphs 0, qas 0: no 'context': allowed: answers, qas, id, question"),
        ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "a", "query": "b"}]}]}]}',
         "a.json: data 0, paragraphs 0, qas 0: no 'question': allowed: answers, context, qas, id,"
         " query"),
        ('{"data": [{"paragraphs": [{"context": 3, "qas": [{"id": "a", "question": "b"}]}]}]}',
         "a.json: data 0, paragraphs 0, qas 0: column 'context' is int, not text: choose another"),
        (changed(answers=[{"text": "boats", "answer_start": 41}]),
         "a.json: data 0, paragraphs 0, qas 1: the answer 'boats' does not begin at character 41 of"
         " the context: mend its answer_start"),
        (changed(answers=[{"text": "mill.", "answer_start": -5}]),
         "a.json: data 0, paragraphs 0, qas 1: the answer 'mill.' does not begin at character -5 of"
         " the context: mend its answer_start"),
        (changed(answers=[{"text": "mill"}]),
         "a.json: data 0, paragraphs 0, qas 1: an answer needs 'text' and 'answer_start': mend it"),
        (changed(answers=[{"text": " ", "answer_start": 3}]),
         "a.json: data 0, paragraphs 0, qas 1: an answer needs 'text' and 'answer_start': mend it"),
        (changed(answers=["mill"]),
         "a.json: data 0, paragraphs 0, qas 1: 'answers' has no lists of 'text' and 'answer_start':"
         " mend it"),
        (changed(answers={"text": ["mill"], "answer_start": [8, 0]}),
         "a.json: data 0, paragraphs 0, qas 1: 'answers' has no lists of 'text' and 'answer_start':"
         " mend it"),
        ("", "a.json is empty: no row has text; mend it, or take it out of 'files'"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, data: bytes | str, message: str | None) -> None:
    found = refused(tmp_path, "a.json", data)
    assert found == message or (message is None and found.startswith("a.json: not valid JSON ("))


def test_mistakes_in_tables(tmp_path: Path) -> None:
    table = copy.deepcopy(TABLE)
    table[1]["answers"][0]["answer_start"] = 3
    message = (
        "the answer 'Na\u00efve boats' does not begin at character 3 of the context: mend its"
        " answer_start"
    )
    assert refused(tmp_path, "a.jsonl", encode_jsonl(table)) == f"a.jsonl:2: {message}"
    parquet = refused(tmp_path, "a.parquet", encode_parquet(table))
    assert parquet == f"a.parquet: row 2: {message}"
    for row in table:
        del row["context"]
    allowed = "allowed: id, question, answers"
    missing = refused(tmp_path, "a.jsonl", encode_jsonl(table))
    assert missing == f"a.jsonl:1: no 'context': {allowed}"
    missing = refused(tmp_path, "a.parquet", encode_parquet(table))
    assert missing == f"a.parquet: no column 'context': {allowed}"
    damaged = refused(tmp_path, "b.json.gz", gzip_(published(TABLE))[:-9])
    assert damaged.startswith("b.json.gz is damaged (Truncated compressed stream)")
