"""What some teacher has said already: from files of every format into a cache like any other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

from kdpipe import dvc, write_corpus
from kdpipe.cache import Cache
from kdpipe.parts import EMBEDDING, LOGITS
from kdpipe.pipeline import load_pipeline
from kdpipe.project import open_project
from tests.ends import Capture, command, fails
from tests.pieces import sentences, write_text
from tests.reader import decode, read_blocks, read_manifest, read_safetensors
from tests.tiny import tiny_teacher_folder

FILE = Path("p.yaml")
ROWS, WIDTH = 40, 6
TEXTS = sentences(ROWS)
VECTORS = np.random.default_rng(3).standard_normal((ROWS, WIDTH)).astype(np.float32)
LOGIT = VECTORS[:, :3]
ORDER = np.random.default_rng(4).permutation(ROWS)
HEAD = """\
corpora:
  text:
    sources: [{kind: files, files: [text.txt]}]
    tokenizer: teacher
    max_seq_length: 32
    validation: 0.2
"""
SHAPE = (
    "{kind: shape, num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 4,"
    " intermediate_size: 32, hidden_dropout_prob: 0.0}"
)
TRAIN = "{max_steps: 4, tokens_per_batch: 256, bf16: false}"
FP32 = "part: embedding, storage: fp32"


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with text, a model whose tokenizer reads it, and small blocks."""
    monkeypatch.setattr(write_corpus, "SMALLEST", 20)
    monkeypatch.setattr(write_corpus, "SPREAD", 100)
    monkeypatch.setenv("KDPIPE_DEVICE", "cpu")
    write_text(project / "text.txt", TEXTS)
    tiny_teacher_folder(project / "teacher")
    return project


def pipeline(files: str, rest: str = "", head: str = HEAD) -> None:
    """Write the pipeline file: a cache `mine` of some files, and other sections."""
    FILE.write_text(f"{head}caches:\n  mine: {{corpus: text, files: [{files}]}}\n{rest}")


def run(*stages: str) -> None:
    for stage in stages:
        command([stage, str(FILE)])


def made() -> Cache:
    """The cache `mine`, open."""
    project = open_project(FILE)
    return project.cache("mine", project.corpus("text"))


def bytes_of(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def lists(vectors: np.ndarray, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(vectors.tolist(), kind or pa.list_(pa.float32()))


def write_table(path: str, **columns: Any) -> None:
    """A table in the format that the name says, in several batches."""
    table = pa.table(columns)
    if path.endswith(".parquet"):
        pa.parquet.write_table(table, path, row_group_size=7)
        return
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)


def write_npy() -> str:
    np.save("v.npy", VECTORS)
    return f"{{{FP32}, file: v.npy}}"


def write_fortran_npy() -> str:
    np.save("v.npy", np.asfortranarray(VECTORS.astype(np.float64)))
    return f"{{{FP32}, file: v.npy}}"


def write_safetensors() -> str:
    save_file({"values": torch.from_numpy(VECTORS)}, "v.safetensors")
    return f"{{{FP32}, file: v.safetensors}}"


def write_safetensors_of_rows() -> str:
    values = {"values": torch.from_numpy(VECTORS[ORDER]), "rows": torch.from_numpy(ORDER)}
    save_file(values, "v.safetensors")
    return f"{{{FP32}, file: v.safetensors}}"


def write_parquet() -> str:
    write_table("v.parquet", values=lists(VECTORS))
    return f"{{{FP32}, file: v.parquet}}"


def write_parquet_of_rows() -> str:
    write_table("v.parquet", row=ORDER, vector=lists(VECTORS[ORDER], pa.list_(pa.float64(), WIDTH)))
    return f"{{{FP32}, file: v.parquet, id_column: row, value_column: vector}}"


def write_arrow_of_texts() -> str:
    # Other texts, blank ones, and a text again with another vector, of which the first counts.
    texts = ["nobody's", None, *(TEXTS[row] for row in ORDER), TEXTS[3], " "]
    values = np.concatenate([VECTORS[:2], VECTORS[ORDER], -VECTORS[:2]])
    write_table("v.arrow", text=texts, values=lists(values, pa.large_list(pa.float32())))
    return f"{{{FP32}, file: v.arrow, text_column: text}}"


WRITERS = (
    *(write_npy, write_fortran_npy, write_safetensors, write_safetensors_of_rows),
    *(write_parquet, write_parquet_of_rows, write_arrow_of_texts),
)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_format_gives_every_row_its_vector(here: Path, write: Any) -> None:
    pipeline(write())
    run("tokenize", "cache-teacher")
    manifest, _ = read_manifest(here / "artifacts/caches/mine")
    blocks = read_blocks(here / "artifacts/corpora/text")
    assert len(manifest["files"]) == len(blocks) > 3
    found = [
        decode(read_safetensors(here / "artifacts/caches/mine" / file["name"])[0], "fp32")
        for file in manifest["files"]
    ]
    assert [len(values) for values in found] == [len(block) for block in blocks]
    assert np.array_equal(np.concatenate(found), VECTORS)
    facts = {key: manifest["facts"][key] for key in ("dtype", "embedding_width", "rows", "layers")}
    assert facts == {"dtype": "fp32", "embedding_width": WIDTH, "rows": ROWS, "layers": 0}
    rows = np.array([7, 0, 39, 7])
    assert torch.equal(
        made().read(rows, frozenset({EMBEDDING}))[EMBEDDING], torch.from_numpy(VECTORS[rows])
    )


@pytest.mark.parametrize(
    ("storage", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", None)]
)
def test_bf16_and_fp16_files_and_their_storage(here: Path, storage: str, dtype: Any) -> None:
    values = torch.from_numpy(VECTORS).to(dtype or torch.float32)
    save_file({"values": values}, "v.safetensors")
    pipeline(f"{{part: embedding, file: v.safetensors, storage: {storage}}}")
    run("tokenize", "cache-teacher")
    read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, values.float())


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


def test_a_regression_is_one_number_a_row(here: Path) -> None:
    write_table("s.parquet", id=ORDER.astype(np.int32), score=pa.array(VECTORS[ORDER, 0]))
    pipeline(
        "{part: logits, file: s.parquet, id_column: id, value_column: score,"
        " problem_type: regression}"
    )
    run("tokenize", "cache-teacher")
    cache = made()
    assert (cache.dims.classes, cache.dims.problem) == (("score",), "regression")
    read = cache.read(np.arange(ROWS), frozenset({LOGITS}))[LOGITS]
    assert torch.equal(read, torch.from_numpy(VECTORS[:, :1]))


def test_pairs_and_words_are_found_by_their_text(here: Path) -> None:
    pairs = pa.table({"a": TEXTS, "b": TEXTS[1:] + TEXTS[:1]})
    pa.parquet.write_table(pairs, "pairs.parquet")
    words = [["  ".join(text.split())] for text in TEXTS]
    write_text(Path("text.txt"), [word for (word,) in words])
    head = HEAD.replace(
        "kind: files, files: [text.txt]",
        "kind: files, files: [pairs.parquet], text_column: a, text_pair_column: b",
    )
    write_table("v.parquet", a=pairs["a"].take(ORDER), b=pairs["b"].take(ORDER),
                values=lists(VECTORS[ORDER]))  # fmt: skip
    file = f"{{{FP32}, file: v.parquet, text_column: a, text_pair_column: b}}"
    pipeline(file, head=head)
    run("tokenize", "cache-teacher")
    read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, torch.from_numpy(VECTORS))

    head = HEAD.replace("files: [text.txt]", "files: [text.txt], split_words: true")
    write_table("w.parquet", a=[text.split() for text in TEXTS], values=lists(VECTORS))
    write_table("t.parquet", a=[word for (word,) in words], values=lists(VECTORS))
    for name in ("w", "t"):
        pipeline(f"{{{FP32}, file: {name}.parquet, text_column: a}}", head=head)
        run("tokenize", "cache-teacher")
        read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
        assert torch.equal(read, torch.from_numpy(VECTORS))


def test_equal_texts_that_are_kept_have_one_vector_by_text_and_two_by_number(here: Path) -> None:
    write_text(Path("text.txt"), [*TEXTS, TEXTS[5]])
    head = HEAD + "    deduplicate: false\n"
    write_table("v.parquet", text=TEXTS, values=lists(VECTORS))
    pipeline(f"{{{FP32}, file: v.parquet, text_column: text}}", head=head)
    run("tokenize", "cache-teacher")
    both = np.array([5, ROWS])
    read = made().read(both, frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, torch.from_numpy(VECTORS[[5, 5]]))
    np.save("v.npy", np.concatenate([VECTORS, VECTORS[:1]]))
    pipeline(f"{{{FP32}, file: v.npy}}", head=head)
    run("cache-teacher")
    read = made().read(both, frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, torch.from_numpy(VECTORS[[5, 0]]))


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
    assert [path for path in Path(".kdpipe/store").iterdir() if path.is_file()] == []


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
        assert cells[name][5:] == [str(size), f"never asked ({blocks})"]
    assert re.search(r"\n960 bytes to write, [\d,]+ free at \.kdpipe/store; from v\.arrow", out)
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
    assert (
        pooling["pooling_mode"] == "mean"
        if "pooling_mode" in pooling
        else (pooling["pooling_mode_mean_tokens"])
    )


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


TABLE = "file: v.parquet"
NPY = "part: embedding, file: v.npy"


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ("{file: v.npy}", "caches.mine.files.0: key 'part' is required"),
        ("{part: hidden, file: v.npy}", "Input should be 'embedding' or 'logits', found 'hidden'"),
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
        "a student without embeddings to learn from learns labels or logits: give it a 'head'"
    )


def refused(capsys: Capture, files: str, code: int = 3, head: str = HEAD) -> str:
    """The message with which the import ends; nothing of the cache is there then."""
    pipeline(files, head=head)
    run("tokenize")
    capsys.readouterr()
    line = fails(capsys, ["cache-teacher", str(FILE)], code)
    assert not Path("artifacts/caches/mine").exists()
    return line


CORPUS = "artifacts/corpora/text"


def test_another_number_of_rows(here: Path, capsys: Capture) -> None:
    write_text(Path("text.txt"), [*TEXTS, TEXTS[0], TEXTS[1], ""])
    vectors = np.concatenate([VECTORS, VECTORS[:3]])
    np.save("v.npy", vectors)
    write_table("v.parquet", values=lists(vectors))
    for name in ("v.npy", "v.parquet"):
        assert refused(capsys, f"{{part: embedding, file: {name}}}") == (
            f"{name} has 43 vectors, {CORPUS} has 40 rows (blank texts and 2 repeated ones were"
            " left out): set deduplicate: false for it, or find rows by id_column or text_column"
            " of a table"
        )


def test_rows_without_a_vector(here: Path, capsys: Capture) -> None:
    rest = "give every row a vector; texts must be just as in the sources"
    kept = np.setdiff1d(np.arange(ROWS), [4, 9])
    save_file(
        {"values": torch.from_numpy(VECTORS[kept]), "rows": torch.from_numpy(kept)}, "v.safetensors"
    )
    write_table("i.parquet", row=kept, values=lists(VECTORS[kept]))
    nulls = [None if row in {4, 9} else VECTORS[row].tolist() for row in range(ROWS)]
    write_table("n.arrow", values=pa.array(nulls, pa.list_(pa.float32())))
    for file in ("v.safetensors", "i.parquet, id_column: row", "n.arrow"):
        name = file.partition(",")[0]
        assert refused(capsys, f"{{part: embedding, file: {file}}}") == (
            f"{name} has nothing for 2 of 40 rows of {CORPUS} (row 4, 9): {rest}"
        )
    write_table("t.arrow", text=["another"] * 3, values=lists(VECTORS[:3]))
    assert refused(capsys, "{part: embedding, file: t.arrow, text_column: text}") == (
        f"t.arrow has nothing for 40 of 40 rows of {CORPUS} (row 0, 1, 2, 3, 4, ...): {rest}"
    )


def test_rows_that_are_none_or_come_twice(here: Path, capsys: Capture) -> None:
    for wrong, wanted in (
        (
            40,
            f"names row 40, {CORPUS} has rows 0 to 39: number the rows as the corpus does, or use",
        ),
        (
            -1,
            f"names row -1, {CORPUS} has rows 0 to 39: number the rows as the corpus does, or use",
        ),
        (38, "names row 38 twice: keep one vector for each row"),
    ):
        rows = np.append(np.arange(ROWS - 1), wrong)
        save_file(
            {"values": torch.from_numpy(VECTORS), "rows": torch.from_numpy(rows)}, "v.safetensors"
        )
        line = refused(capsys, "{part: embedding, file: v.safetensors}")
        assert line.startswith(f"v.safetensors: tensor 'rows' {wanted}")
        write_table("v.parquet", row=rows, values=lists(VECTORS))
        line = refused(capsys, "{part: embedding, file: v.parquet, id_column: row}")
        assert line.startswith(f"v.parquet: column 'row' {wanted}")
    for column, kind in ((np.arange(ROWS) / 2, "double"), (pa.array([None, *range(39)]), "a null")):
        write_table("v.parquet", row=column, values=lists(VECTORS))
        assert refused(capsys, "{part: embedding, file: v.parquet, id_column: row}") == (
            f"v.parquet: column 'row' has {kind} where each value is the number of a row: mend it"
        )
    for rows in (torch.arange(39), torch.arange(40.0)):
        save_file({"values": torch.from_numpy(VECTORS), "rows": rows}, "v.safetensors")
        line = refused(capsys, "{part: embedding, file: v.safetensors}")
        kind = str(rows.dtype).removeprefix("torch.")
        assert line == (
            f"v.safetensors has 40 vectors, but 'rows' is {kind} of the shape [{len(rows)}]: give"
            " each vector the number of its row, as int64"
        )


@pytest.mark.parametrize(("value", "storage"), [(np.nan, "fp32"), (-np.inf, "fp16"), (7e4, "fp16")])
def test_what_is_not_finite_names_the_row(
    here: Path, capsys: Capture, value: float, storage: str
) -> None:
    vectors = VECTORS.copy()
    vectors[33, 2] = value
    np.save("v.npy", vectors)
    write_table("v.parquet", row=ORDER, values=lists(vectors[ORDER]))
    for file in ("v.npy", "v.parquet, id_column: row"):
        line = refused(capsys, f"{{part: embedding, storage: {storage}, file: {file}}}", code=7)
        assert line == (
            f"{file.partition(',')[0]} is NaN or Inf in {storage} for row 33 of the corpus: mend"
            f" the file{', or set storage: fp32 if it has them not' * (storage == 'fp16')}"
        )


def test_numbers_beyond_fp32_and_nulls_within_a_vector(here: Path, capsys: Capture) -> None:
    for value in (1e300, None):
        vectors: list[list[Any]] = VECTORS.tolist()
        vectors[12][0] = value
        write_table("v.parquet", values=pa.array(vectors, pa.list_(pa.float64())))
        line = refused(capsys, f"{{{FP32}, file: v.parquet}}", code=7)
        assert line == "v.parquet is NaN or Inf in fp32 for row 12 of the corpus: mend the file"


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.zeros((40, 2, 2)), "v.npy is float64 of the shape [40, 2, 2], not a vector of numbers"),
        (np.zeros((40, 0)), "v.npy is float64 of the shape [40, 0], not a vector of numbers for"),
        (
            np.zeros((40, 2), bool),
            "v.npy is bool of the shape [40, 2], not a vector of numbers for",
        ),
        (
            np.zeros((40, 2), complex),
            "v.npy is complex128 of the shape [40, 2], not a vector of nu",
        ),
        (np.zeros((40, 2), ">f4"), "v.npy cannot be read (given numpy array has byte order diff"),
        (np.array([["a"]] * 40), "v.npy cannot be read (can't convert np.ndarray of type numpy.st"),
        (
            np.array([[{}]] * 40),
            "v.npy cannot be read (Array can't be memory-mapped: Python object",
        ),
    ],
)
def test_arrays_that_are_no_vectors(
    here: Path, capsys: Capture, array: np.ndarray, wanted: str
) -> None:
    np.save("v.npy", array, allow_pickle=True)
    assert refused(capsys, f"{{{NPY}}}").startswith(wanted)


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors", "v.parquet", "v.arrow"])
def test_damaged_files(here: Path, capsys: Capture, name: str) -> None:
    {
        "v.npy": write_npy,
        "v.safetensors": write_safetensors,
        "v.parquet": write_parquet,
        "v.arrow": write_arrow_of_texts,
    }[name]()
    whole = Path(name).read_bytes()
    text = ", text_column: text" if name == "v.arrow" else ""
    for data in (b"", b"hello", whole[: len(whole) // 2]):
        Path(name).write_bytes(data)
        line = refused(capsys, f"{{part: embedding, file: {name}{text}}}")
        assert line.startswith((f"{name} cannot be read (", f"{name} is damaged ("))
    Path(name).unlink()
    line = refused(capsys, f"{{part: embedding, file: {name}}}")
    assert line == f"{name} does not exist: check 'files' in the pipeline file"


def test_tables_that_are_no_vectors(here: Path, capsys: Capture) -> None:
    def line(keys: str = "", **columns: Any) -> str:
        write_table("v.parquet", **columns)
        return refused(capsys, f"{{part: embedding, file: v.parquet{keys}}}")

    assert line(values=TEXTS) == (
        "v.parquet: column 'values' is string, not lists of numbers: choose another value_column"
    )
    assert "column 'values' is list<element: bool>, not lists" in line(values=[[True]] * ROWS)
    ragged = VECTORS.tolist()
    ragged[11] = ragged[11][:4]
    assert line(values=pa.array(ragged)) == (
        "v.parquet: column 'values': row 12 has 4 numbers, those before it have 6: mend the file"
    )
    empty = pa.array([[]] * ROWS, pa.list_(pa.float32()))
    assert line(values=empty) == "v.parquet: column 'values': row 1 has 0 numbers: mend the file"
    assert line(vector=lists(VECTORS)) == ("v.parquet: no column 'values': allowed: vector")
    assert line(", id_column: rows", values=lists(VECTORS), row=ORDER) == (
        "v.parquet: no column 'rows': did you mean 'row'? allowed: values, row"
    )
    assert line(", text_column: text", values=lists(VECTORS), text=ORDER) == (
        "v.parquet: row 1: column 'text' is int, not text: choose another"
    )
    assert line(
        ", text_column: a, text_pair_column: b", values=lists(VECTORS), a=TEXTS, b=TEXTS
    ) == (f"v.parquet: {CORPUS} has texts: take out text_pair_column")


def test_a_corpus_of_pairs_needs_both_texts(here: Path, capsys: Capture) -> None:
    pa.parquet.write_table(pa.table({"a": TEXTS, "b": TEXTS}), "pairs.parquet")
    head = HEAD.replace("[text.txt]", "[pairs.parquet], text_column: a, text_pair_column: b")
    write_table("v.parquet", text=TEXTS, values=lists(VECTORS))
    line = refused(capsys, "{part: embedding, file: v.parquet, text_column: text}", head=head)
    assert line == f"v.parquet: {CORPUS} has pairs: give text_pair_column"


def test_a_safetensors_file_without_values(here: Path, capsys: Capture) -> None:
    save_file({"vectors": torch.from_numpy(VECTORS)}, "v.safetensors")
    assert refused(capsys, "{part: embedding, file: v.safetensors}") == (
        "v.safetensors has no tensor 'values', but vectors: rename the right one"
    )


def test_logits_that_are_not_their_classes(here: Path, capsys: Capture) -> None:
    np.save("l.npy", LOGIT)
    assert refused(capsys, "{part: logits, file: l.npy, classes: [yes, no]}") == (
        "l.npy has 3 logits a row, expected 2 (yes, no): mend 'classes' or 'problem_type'"
    )
    assert refused(capsys, "{part: logits, file: l.npy, problem_type: regression}") == (
        "l.npy has 3 logits a row, expected 1 (score): mend 'classes' or 'problem_type'"
    )
