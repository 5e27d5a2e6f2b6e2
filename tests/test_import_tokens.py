"""What files have about tokens and words teaches as a teacher does that said the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdpipe.activations import Activations
from kdpipe.cache import Cache
from kdpipe.parts import TOKEN_LOGITS, Part
from kdpipe.project import open_project
from kdpipe.tokenizer import first_tokens
from tests.ends import Capture, command, fails
from tests.test_tasks_question_answering import asked, write_questions
from tests.tiny import SENTENCES, tiny_headed_folder
from tests.vectors import FILE, HEAD, begun, pipeline, run

SHAPE = (
    "{kind: shape, num_hidden_layers: 2, hidden_size: 16, num_attention_heads: 4,"
    " intermediate_size: 32, hidden_dropout_prob: 0.0}"
)
TRAIN = "{max_steps: 4, tokens_per_batch: 256, bf16: false, learning_rate: 1e-3}"


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to import into."""
    return begun(project, monkeypatch)


def both(files: str, targets: str, student: str, head: str = HEAD) -> None:
    """The pipeline file of two students: one learns from a teacher, the other from files."""
    students = "".join(
        f"  {name}: {{caches: [{name}], model: {SHAPE}, train: {TRAIN}, {student}}}\n"
        for name in ("said", "mine")
    )
    said = f"  said: {{corpus: text, teacher: tiny, dtype: fp32, targets: [{targets}]}}\n"
    teachers = "teachers:\n  tiny: {model: teacher, normalize: false}\nstudents:\n"
    pipeline(files, f"{said}{teachers}{students}", head)


def said_by_teacher() -> tuple[Cache, Activations]:
    """What the teacher says, after it was made to."""
    run("tokenize")
    command(["cache-teacher", str(FILE), "said"])
    project = open_project(FILE)
    cache = project.cache("said", project.corpus("text"))
    return cache, cache.read(np.arange(cache.facts.rows), cache.provides)


def assert_same_students() -> None:
    run("cache-teacher", "train")
    mine, theirs = (Path(f"artifacts/students/{name}") for name in ("mine", "said"))
    names = {path.name for path in mine.glob("*.safetensors")} | {"steps.tsv"}
    assert names >= {"model.safetensors"}
    for name in names:
        assert (mine / name).read_bytes() == (theirs / name).read_bytes(), name
    assert any(tensor.abs().sum() > 0 for tensor in load_file(mine / "model.safetensors").values())


def test_states_of_all_kinds_teach_as_those_of_a_teacher(here: Path) -> None:
    parts = [Part("hidden", layer) for layer in range(3)]
    parts += [Part(name, 2) for name in ("query", "key", "value")]
    names = {part: f"{part.name}-{part.layer}.safetensors" for part in parts}
    files = ", ".join(
        f"{{part: {part.name}, layer: {part.layer}, storage: fp32, file: {names[part]}}}"
        for part in parts
    )
    structure = "student_layers: [0, 2], teacher_layers: [0, 2]"
    objectives = (
        "{kind: hidden, layers: {0: 0, 1: 2}}, {kind: hidden, layers: uniform, loss: cosine},"
        f" {{kind: structure, loss: nst, {structure}}}, {{kind: emd}}, {{kind: relation}},"
        f" {{kind: structure, loss: fsp, projection: linear, {structure}}}"
    )
    both(
        files,
        "{kind: hidden, layers: [0, 1, 2], storage: fp32}, {kind: qkv, layers: [2], storage: fp32}",
        f"objectives: [{objectives}], embedding_size: 16",
    )
    _, said = said_by_teacher()
    for part, name in names.items():
        save_file({"values": said[part], "lengths": said.lengths}, name)
    assert_same_students()
    assert load_file("artifacts/students/mine/projections.safetensors")
    told = json.loads(Path("artifacts/students/mine/kdpipe.json").read_text())["caches"]["mine"]
    assert (told["hidden_width"], told["layers"], told["embedding_width"]) == (32, 2, 0)


def test_a_module_of_torch_writes_the_file_of_the_page(here: Path) -> None:
    page = Path(__file__).parents[1] / "docs" / "pipeline-file.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    torch.manual_seed(0)
    table, cell = nn.Embedding(500, 8), nn.GRU(8, 4, batch_first=True, bidirectional=True)
    student = f"caches: [mine], model: {SHAPE}, objectives: [{{kind: hidden, layers: {{2: 1}}}}]"
    Path("data").mkdir()
    pipeline(
        "{part: hidden, layer: 1, storage: fp32, file: data/states.safetensors}",
        f"students:\n  small: {{{student}, train: {TRAIN}}}\n",
        HEAD.replace("  text:\n", "  docs:\n"),
    )
    FILE.write_text(FILE.read_text().replace("corpus: text", "corpus: docs"))
    Path("pipeline.yaml").symlink_to(FILE)
    run("tokenize")
    exec(compile(code, page, "exec"), {"answer": lambda ids: cell(table(ids))[0]})
    run("cache-teacher", "train")
    project = open_project(FILE)
    cache = project.cache("mine", project.corpus("docs"))
    read = cache.read(np.array([5, 2]), cache.provides)[Part("hidden", 1)]
    rows = [torch.from_numpy(cache.corpus.gather(np.array([row])).ids) for row in (5, 2)]
    wanted = torch.cat([cell(table(row[None]))[0][0] for row in rows])
    torch.testing.assert_close(read, wanted, rtol=0, atol=1e-6)
    assert Path("artifacts/students/small/projections.safetensors").is_file()


def test_a_student_of_states_alone_has_the_width_of_its_own_shape(here: Path) -> None:
    file = "{part: hidden, layer: 2, storage: fp32, file: h.safetensors}"
    both(file, "{kind: hidden, layers: [2]}", "objectives: [{kind: hidden, layers: last}]")
    _, said = said_by_teacher()
    save_file({"values": said[Part("hidden", 2)], "lengths": said.lengths}, "h.safetensors")
    run("cache-teacher")
    command(["train", str(FILE), "mine"])
    folder = Path("artifacts/students/mine")
    assert [one["path"] for one in json.loads((folder / "modules.json").read_text())] == [
        "",
        "1_Pooling",
    ]
    assert load_file(folder / "projections.safetensors")["0-hidden.2.weight"].shape == (32, 16)


@pytest.mark.parametrize(("limit", "reads"), [(32, "text"), (12, "text"), (12, "words")])
def test_logits_of_words_teach_a_tagger(here: Path, limit: int, reads: str) -> None:
    tiny_headed_folder(Path("headed"), "token", classes=("O", "B", "I"))
    head = HEAD.replace("[text.txt]", "[text.txt], split_words: true")
    source = "{kind: files, files: [text.txt], split_words: true}"
    words = f"  words: {{sources: [{source}], tokenizer: {{kind: words}}, validation: 0.2}}\n"
    both(
        "{part: logits, per: word, classes: [O, B, I], file: words.safetensors}",
        "{kind: logits, per: token}",
        f"corpus: {reads}, head: {{kind: token, classes: [O, B, I]}},"
        " objectives: [{kind: logits}, {kind: labels, pseudo_labels: true}]",
        head.replace("length: 32", f"length: {limit}") + words,
    )
    FILE.write_text(FILE.read_text().replace("{model: teacher,", "{model: headed,"))
    cache, said = said_by_teacher()
    rows = cache.corpus.gather(np.arange(cache.facts.rows))
    texts = cache.corpus.words(np.arange(cache.facts.rows))
    assert (cache.corpus.facts.cut_rows > 10) == (limit == 12)
    values, places = [], first_tokens(rows)
    starts = np.cumsum(rows.lengths) - rows.lengths
    for start, length, row in zip(starts, rows.lengths, texts, strict=True):
        here_, logits = places[start : start + length], said[TOKEN_LOGITS][start : start + length]
        # As a teacher without a limit has them: also for words that the corpus has not read.
        values.append(torch.full((len(row), 3), 9.0))
        values[-1][: here_.sum()] = logits[torch.from_numpy(here_)]
    lengths = torch.tensor([len(row) for row in values])
    save_file({"values": torch.cat(values), "lengths": lengths}, "words.safetensors")
    assert_same_students()
    config = json.loads(Path("artifacts/students/mine/config.json").read_text())
    assert config["id2label"] == {"0": "O", "1": "B", "2": "I"}


def test_logits_of_tokens_teach_where_answers_are(here: Path) -> None:
    tiny_headed_folder(Path("headed"), "span")
    texts = [" ".join(SENTENCES[place : place + 4]) for place in range(40)]
    write_questions(Path("q.jsonl"), [asked(text, text.split()[-1]) for text in texts])
    head = HEAD.replace(
        "kind: files, files: [text.txt]", "kind: squad, files: [q.jsonl], doc_stride: 4"
    )
    both(
        "{part: logits, per: token, problem_type: span, file: ends.safetensors}",
        "{kind: logits, per: token}",
        "head: {kind: span}, objectives: [{kind: logits, temperature: 2.0}]",
        head,
    )
    FILE.write_text(FILE.read_text().replace("{model: teacher,", "{model: headed,"))
    _, said = said_by_teacher()
    assert len(said.lengths) > len(texts)
    values = {"values": said[TOKEN_LOGITS], "lengths": said.lengths}
    save_file(values, "ends.safetensors")
    assert_same_students()


@pytest.mark.parametrize(
    ("file", "objective", "wanted"),
    [
        (
            "{part: hidden, layer: 2, file: h.safetensors}",
            "{kind: embedding}",
            "p.yaml:10: students.small.objectives: 'embedding' has nothing to learn from in cache"
            " 'mine', whose files have hidden states of layer 2",
        ),
        (
            "{part: hidden, layer: 2, file: h.safetensors}, {part: embedding, file: v.npy}",
            "{kind: relation}",
            "p.yaml:10: students.small.objectives: 'relation' has nothing to learn from in cache"
            " 'mine', whose files have embedding, hidden states of layer 2",
        ),
        (
            "{part: embedding, file: v.npy}",
            "{kind: emd}",
            "p.yaml:10: students.small.objectives: 'emd' has nothing to learn from in cache 'mine',"
            " whose files have embedding",
        ),
    ],
)
def test_a_student_that_needs_more(
    here: Path, capsys: Capture, file: str, objective: str, wanted: str
) -> None:
    student = f"small: {{caches: [mine], model: {SHAPE}, objectives: [{objective}]}}"
    pipeline(file, f"students:\n  {student}\n")
    assert fails(capsys, ["train", str(FILE)], 2) == wanted


def test_what_files_lack_is_told_before_the_first_step(here: Path, capsys: Capture) -> None:
    parts = (("hidden", 2), ("query", 1), ("key", 1))
    files = ", ".join(f"{{part: {n}, layer: {i}, file: {n}.safetensors}}" for n, i in parts)
    student = f"caches: [mine], model: {SHAPE}"
    kinds = {"all": "hidden, layers: uniform", "scores": "attention, layers: {1: 1}"}
    students = "".join(
        f"  {name}: {{{student}, objectives: [{{kind: {kind}}}]}}\n" for name, kind in kinds.items()
    )
    pipeline(files, f"students:\n{students}")
    run("tokenize")
    lengths = torch.from_numpy(open_project(FILE).corpus("text").lengths).long()
    for name, _ in parts:
        values = torch.randn(int(lengths.sum()), 8)
        save_file({"values": values, "lengths": lengths}, f"{name}.safetensors")
    run("cache-teacher")
    for name, code, wanted in (
        (
            "all",
            3,
            "cache 'mine' lacks hidden states of layer 0, hidden states of layer 1, which the"
            " objectives need: add them to its targets or files and run 'kdpipe cache-teacher'",
        ),
        (
            "scores",
            2,
            "objective 'attention': files do not tell how many heads the teacher has: use kind:"
            " relation, pairs: {query-key: 1.0}",
        ),
    ):
        capsys.readouterr()
        assert fails(capsys, ["train", str(FILE), name], code) == wanted
