"""What some teacher has said already: from the user's files into a cache like any other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdpipe import dvc
from kdpipe.parts import EMBEDDING, LOGITS
from kdpipe.pipeline import load_pipeline
from kdpipe.project import open_project
from tests.ends import Capture, command, fails
from tests.pieces import write_text
from tests.reader import read_blocks
from tests.vectors import (
    FILE,
    FP32,
    LOGIT,
    NPY,
    ORDER,
    ROWS,
    SHAPE,
    TEXTS,
    TRAIN,
    VECTORS,
    WIDTH,
    begun,
    bytes_of,
    lists,
    made,
    pipeline,
    run,
    write_arrow_of_texts,
    write_npy,
    write_parquet_of_rows,
    write_table,
)

TABLE = "file: v.parquet"


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to import into."""
    return begun(project, monkeypatch)


def test_embeddings_are_kept_in_fp16_and_logits_in_fp32_unless_told(here: Path) -> None:
    np.save("v.npy", VECTORS)
    np.save("l.npy", LOGIT)
    names = "classes: [low, mid, high]"
    pipeline(f"{{part: embedding, file: v.npy}}, {{part: logits, file: l.npy, {names}}}")
    run("tokenize", "cache-teacher")
    cache = made()
    assert [question.name for question in cache.facts.questions] == [
        "embedding.fp16",
        "logits.fp32",
    ]
    said = cache.read(np.arange(ROWS), frozenset({EMBEDDING, LOGITS}))
    assert torch.equal(said[EMBEDDING], torch.from_numpy(VECTORS).half().float())
    assert torch.equal(said[LOGITS], torch.from_numpy(LOGIT))
    assert cache.dims.classes == ("low", "mid", "high")
    assert cache.dims.problem == "single_label_classification"


def test_made_again_from_nothing_a_cache_has_the_same_bytes(here: Path, capsys: Capture) -> None:
    pipeline(write_parquet_of_rows())
    run("tokenize", "cache-teacher")
    first = bytes_of("artifacts/caches/mine")
    capsys.readouterr()
    run("cache-teacher")
    assert capsys.readouterr().err == "artifacts/caches/mine: up to date\n"
    blocks = len(first) - 1
    for gone, new in (("artifacts/caches", 0), (".kdpipe", blocks)):
        shutil.rmtree(gone)
        shutil.rmtree("artifacts/caches", ignore_errors=True)
        capsys.readouterr()
        run("cache-teacher")
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"artifacts/caches/mine: {blocks} blocks, {new} of them new: the files gave"
            f" {ROWS if new else 0} of {ROWS} rows"
        )
        assert bytes_of("artifacts/caches/mine") == first
    there = [path.name for path in Path(".kdpipe/store").iterdir() if path.is_file()]
    assert there == ["lock"]


def test_another_content_is_another_cache_and_another_place_is_not(here: Path) -> None:
    pipeline(write_npy())
    run("tokenize", "cache-teacher")
    before, shards = made(), set(Path(".kdpipe/store").rglob("*.safetensors"))
    Path("v.npy").rename("w.npy")
    pipeline(f"{{{FP32}, file: w.npy}}")
    run("cache-teacher")
    assert made().facts.teacher == before.facts.teacher
    assert set(Path(".kdpipe/store").rglob("*.safetensors")) == shards
    np.save("w.npy", VECTORS + 1)
    run("cache-teacher")
    assert made().facts.teacher != before.facts.teacher
    read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, torch.from_numpy(VECTORS + 1))


def test_rows_by_number_follow_the_corpus_and_not_its_tokens(here: Path) -> None:
    pipeline(write_npy())
    run("tokenize", "cache-teacher")
    tokens = {block.tokens_digest for block in made().corpus.facts.blocks}
    write_text(Path("text.txt"), TEXTS[20:] + TEXTS[:20])
    run("tokenize", "cache-teacher")
    assert tokens & {block.tokens_digest for block in made().corpus.facts.blocks}
    read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, torch.from_numpy(VECTORS))


def test_rows_by_text_keep_their_vector_wherever_they_go(here: Path) -> None:
    loud = [text.upper() for text in TEXTS]
    write_table("v.parquet", text=TEXTS + loud, values=lists(np.concatenate([VECTORS, -VECTORS])))
    pipeline(f"{{{FP32}, file: v.parquet, text_column: text}}")
    run("tokenize", "cache-teacher")
    # The tokenizer reads small and capital letters alike, and their vectors are others.
    tokens = [block.tokens_digest for block in made().corpus.facts.blocks]
    for lines, vectors in (
        ([TEXTS[row] for row in ORDER], VECTORS[ORDER]),
        (TEXTS, VECTORS),
        (loud, -VECTORS),
    ):
        write_text(Path("text.txt"), lines)
        run("tokenize", "cache-teacher")
        read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
        assert torch.equal(read, torch.from_numpy(vectors))
    head = {block.tokens_digest for block in made().corpus.facts.blocks}
    assert head & {*tokens}


def test_verify_mends_a_damaged_shard(here: Path, capsys: Capture) -> None:
    pipeline(write_arrow_of_texts())
    run("tokenize", "cache-teacher")
    first = bytes_of("artifacts/caches/mine")
    victim = next(Path("artifacts/caches/mine").glob("*.safetensors"))
    with victim.open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\xff\xff")
    capsys.readouterr()
    command(["cache-teacher", "--verify", str(FILE)])
    assert ", 1 of them new: the files gave " in capsys.readouterr().err
    assert bytes_of("artifacts/caches/mine") == first


def test_dry_run_says_what_would_be_imported_and_writes_nothing(
    here: Path, capsys: Capture
) -> None:
    np.save("l.npy", LOGIT)
    embedding = write_arrow_of_texts().replace(", storage: fp32", "")
    pipeline(f"{embedding}, {{part: logits, file: l.npy, classes: [a, b, c]}}")
    run("tokenize")
    capsys.readouterr()
    command(["cache-teacher", "--dry-run", str(FILE)])
    out = capsys.readouterr().out
    blocks = len(read_blocks(here / "artifacts/corpora/text"))
    assert out.startswith("artifacts/caches/mine: what is still to be read from files")
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    cells = {line[0]: line for line in table if line}
    for name, size in (("embedding.fp16", ROWS * WIDTH * 2), ("logits.fp32", ROWS * 3 * 4)):
        assert cells[name][1:3] == [f"{blocks} of {blocks}", str(ROWS)]
        # With the digest of each row.
        assert cells[name][5:] == [f"{size + 16 * ROWS:,}", f"never asked ({blocks})"]
    assert re.search(r"\n2,240 bytes to write, [\d,]+ free at \.kdpipe/store; from v\.arrow", out)
    assert not Path(".kdpipe/store").exists()
    run("cache-teacher")
    np.save("l.npy", -LOGIT)
    capsys.readouterr()
    command(["cache-teacher", "--dry-run", str(FILE)])
    assert f"what the files say changed ({blocks})" in capsys.readouterr().out
    np.save("l.npy", LOGIT[:, :2])
    line = fails(capsys, ["cache-teacher", "--dry-run", str(FILE)], 3)
    assert (
        line == "l.npy has 2 logits a row, expected 3 (a, b, c): mend 'classes' or 'problem_type'"
    )


def test_a_student_of_files_is_that_of_a_teacher_who_said_the_same(here: Path) -> None:
    students = "".join(
        f"  {name}: {{caches: [{name}], model: {SHAPE}, objectives: [{{kind: embedding}}],"
        f" train: {TRAIN}}}\n"
        for name in ("said", "mine")
    )
    teachers = "teachers:\n  tiny: {model: teacher, normalize: false}\nstudents:\n"
    said = "  said: {corpus: text, teacher: tiny, dtype: fp32, targets: [{kind: embedding}]}\n"
    pipeline("{part: embedding, file: v.npy}", f"{said}{teachers}{students}")
    run("tokenize")
    command(["cache-teacher", str(FILE), "said"])
    project = open_project(FILE)
    cache = project.cache("said", project.corpus("text"))
    values = cache.read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
    np.save("v.npy", values.numpy())
    run("cache-teacher", "train")
    mine, theirs = (f"artifacts/students/{name}" for name in ("mine", "said"))
    assert load_file(f"{mine}/model.safetensors").keys()
    for name in ("model.safetensors", "steps.tsv", "1_Pooling/config.json"):
        assert Path(mine, name).read_bytes() == Path(theirs, name).read_bytes(), name
    command(["evaluate", str(FILE), "mine"])
    metrics = json.loads(Path("reports/mine/metrics.json").read_text())
    assert {*metrics} == {"untrained", "student", "share", "parameters", "bytes"}
    assert {*metrics["student"]} >= {"fidelity.spearman", "fidelity.cosine"}
    assert metrics["share"] == {}
    told = json.loads(Path(mine, "kdpipe.json").read_text())
    assert told["teacher"] is None
    assert told["caches"]["mine"]["embedding_width"] == 32
    card = Path(mine, "README.md").read_text()
    assert "It learned this from a model whose answers were given in files, by" in card


def test_a_student_takes_means_and_gets_the_width_of_the_vectors(here: Path) -> None:
    objectives = "[{kind: embedding, loss: mse}]"
    students = (
        f"students:\n  small: {{caches: [mine], model: {SHAPE}, objectives: {objectives},"
        f" train: {TRAIN}}}\n"
    )
    pipeline(write_npy(), students)
    run("tokenize", "cache-teacher", "train")
    folder = Path("artifacts/students/small")
    modules = [module["path"] for module in json.loads((folder / "modules.json").read_text())]
    assert modules == ["", "1_Pooling", "2_Dense"]
    dense = json.loads((folder / "2_Dense/config.json").read_text())
    assert (dense["in_features"], dense["out_features"]) == (32, WIDTH)
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    assert [key for key, value in pooling.items() if value is True] == [
        "pooling_mode_mean_tokens",
        "include_prompt",
    ]


def test_a_head_has_the_classes_of_the_logits(here: Path) -> None:
    np.save("l.npy", LOGIT)
    students = (
        f"students:\n  small: {{caches: [mine], model: {SHAPE}, head: {{kind: sequence}},"
        f" objectives: [{{kind: logits}}, {{kind: labels, pseudo_labels: true}}], train: {TRAIN},"
        " evaluate: [{kind: agreement}]}\n"
    )
    pipeline("{part: logits, file: l.npy, classes: [low, mid, high]}", students)
    run("tokenize", "cache-teacher", "train", "evaluate")
    config = json.loads(Path("artifacts/students/small/config.json").read_text())
    assert config["id2label"] == {"0": "low", "1": "mid", "2": "high"}
    metrics = json.loads(Path("reports/small/metrics.json").read_text())
    assert 0.0 <= metrics["student"]["agreement"] <= 1.0


def test_dvc_tracks_the_files(here: Path, capsys: Capture) -> None:
    students = (
        f"students:\n  small: {{caches: [mine], model: {SHAPE}, objectives: [{{kind: embedding}}]}}"
    )
    pipeline(write_npy(), students)
    stages = dvc.stages(load_pipeline(FILE), FILE, Path())
    assert stages["cache-teacher-mine"]["deps"] == ["artifacts/corpora/text/manifest.json", "v.npy"]
    assert stages["cache-teacher-mine"]["params"] == [{"p.yaml": ["caches.mine"]}]
    assert stages["train-small"]["params"] == [{"p.yaml": ["students.small"]}]
    Path("v.npy").unlink()
    assert fails(capsys, ["repro", str(FILE)], 3) == (
        "v.npy does not exist: check the path in p.yaml"
    )


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ("{file: v.npy}", "caches.mine.files.0: key 'part' is required"),
        ("{part: states, file: v.npy}", "Input should be 'embedding', 'logits', 'hidden', 'query'"),
        (
            "{part: embedding, file: v.csv}",
            "v.csv: unknown format '.csv': allowed: .npy, .safetensors, .parquet, .arrow",
        ),
        (
            "{part: embedding, file: v.npz}",
            "v.npz: unknown format '.npz': did you mean '.npy'? allowed: .npy, .safetensors,"
            " .parquet, .arrow",
        ),
        (f"{{{NPY}, id_column: x}}", "key 'id_column' is about tables: v.npy has no columns"),
        (
            "{part: embedding, file: v.safetensors, value_column: x}",
            "key 'value_column' is about tables: v.safetensors has no columns",
        ),
        (
            f"{{part: embedding, {TABLE}, id_column: x, text_column: y}}",
            "give either 'id_column' or 'text_column', to find rows by",
        ),
        (
            f"{{part: embedding, {TABLE}, text_pair_column: y}}",
            "key 'text_pair_column' needs 'text_column', the first of the texts",
        ),
        (f"{{{NPY}, classes: [a, b]}}", "key 'classes' is about logits: take it out"),
        (
            f"{{{NPY}, problem_type: regression}}",
            "key 'problem_type' is about logits: take it out",
        ),
        (
            "{part: logits, file: v.npy}",
            "logits need 'classes', in the order of the numbers of a vector",
        ),
        (
            "{part: logits, file: v.npy, problem_type: regression, classes: [a, b]}",
            "a regression has no classes: take them out",
        ),
        (f"{{{NPY}}}, {{{NPY}}}", "two of 'files' have embedding: make another cache of one"),
        (f"{{{NPY}}}], teacher: [tiny", "key 'teacher' is about a teacher that is run: 'files'"),
        (f"{{{NPY}}}], dtype: [fp32", "key 'dtype' is about a teacher that is run: 'files' need"),
        ("", "caches.mine: key 'teacher' is required; or 'files', where what a teacher said is"),
        ("], teacher: tiny, targets: [", "caches.mine: key 'targets' is required; or 'files', whe"),
    ],
)
def test_a_section_that_cannot_be(here: Path, capsys: Capture, files: str, wanted: str) -> None:
    pipeline(files)
    FILE.write_text(FILE.read_text().replace("[tiny]", "tiny").replace("[fp32]", "fp32"))
    line = fails(capsys, ["cache-teacher", str(FILE)], 2)
    assert line.startswith("p.yaml:8: caches.mine")
    assert wanted in line


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (
            "model: {kind: teacher_layers, layers: [1]}, objectives: [{kind: embedding}]",
            "p.yaml:10: students.small.model: cache 'mine' is of files, there is no model to take"
            " layers from: use kind: shape or kind: checkpoint",
        ),
        (
            f"model: {SHAPE}, objectives: [{{kind: hidden, layers: last}}]",
            "p.yaml:10: students.small.objectives: 'hidden' has nothing to learn from in cache"
            " 'mine', whose files have embedding",
        ),
        (
            f"model: {SHAPE}, head: {{kind: sequence}}, objectives: [{{kind: logits}}]",
            "p.yaml:10: students.small.objectives: 'logits' has nothing to learn from in cache"
            " 'mine', whose files have embedding",
        ),
    ],
)
def test_a_student_that_needs_more(here: Path, capsys: Capture, keys: str, wanted: str) -> None:
    pipeline(f"{{{NPY}}}", f"students:\n  small: {{caches: [mine], {keys}}}\n")
    assert fails(capsys, ["train", str(FILE)], 2) == wanted


def test_a_student_of_logits_needs_a_head(here: Path, capsys: Capture) -> None:
    np.save("l.npy", LOGIT)
    student = f"caches: [mine], model: {SHAPE}, objectives: [{{kind: logits}}]"
    pipeline(
        "{part: logits, file: l.npy, classes: [a, b, c]}", f"students:\n  small: {{{student}}}\n"
    )
    run("tokenize", "cache-teacher")
    capsys.readouterr()
    assert fails(capsys, ["train", str(FILE)], 2) == (
        "a student without embeddings or states to learn from learns labels or logits: give it a"
        " 'head'"
    )
