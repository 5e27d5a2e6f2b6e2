"""Bad input through the real command line: one line that says what is wrong, and an exit code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2Model

from kdpipe import cli
from tests.ends import Capture, command, edit, fails


@pytest.mark.parametrize("stage", ["tokenize", "cache-teacher", "train", "evaluate", "repro"])
def test_no_pipeline_file(here: Path, capsys: Capture, stage: str) -> None:
    line = fails(capsys, [stage, "nowhere.yaml"], 2)
    assert line == "nowhere.yaml: no such file; 'kdpipe init' writes one"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("", "pipeline.yaml is empty: remove it, then 'kdpipe init' writes one"),
        ("# a comment\n", "pipeline.yaml is empty: remove it, then 'kdpipe init' writes one"),
        ("- a\n", "pipeline.yaml: expected a mapping, found list"),
        (
            "corpora:\n  a: [\n",
            "pipeline.yaml:3: not valid YAML: expected the node content, but found '<stream end>'",
        ),
        (
            "corpora: {}\ncorpora: {}\n",
            'pipeline.yaml:2: not valid YAML: found duplicate key "corpora" with value "{}"'
            ' (original value: "{}")',
        ),
        ("\nteachers: {}\n", "pipeline.yaml:1: key 'corpora' is required"),
        (
            "corpora: {}\n\nteacher: {}\n",
            "pipeline.yaml:3: unknown key 'teacher': did you mean 'teachers'? allowed: corpora,"
            " teachers, caches, students, bodies, augmentations",
        ),
    ],
)
def test_no_pipeline_in_the_file(here: Path, capsys: Capture, content: str, wanted: str) -> None:
    Path("pipeline.yaml").write_text(content)
    assert fails(capsys, ["tokenize", "pipeline.yaml"], 2) == wanted


def test_missing_text(here: Path, capsys: Capture) -> None:
    (here / "text.txt").unlink()
    line = fails(capsys, ["tokenize", "pipeline.yaml"], 3)
    assert line == "text.txt does not exist: check 'files' in the pipeline file"


@pytest.mark.parametrize("content", ["", "\n \n\n"])
def test_empty_text(here: Path, capsys: Capture, content: str) -> None:
    (here / "text.txt").write_text(content)
    line = fails(capsys, ["tokenize", "pipeline.yaml"], 3)
    assert line == "text.txt is empty: no row has text; mend it, or take it out of 'files'"


def test_text_of_no_known_format(here: Path, capsys: Capture) -> None:
    (here / "text.pdf").write_bytes(b"%PDF")
    edit("files: [text.txt]", "files: [text.pdf]")
    line = fails(capsys, ["tokenize", "pipeline.yaml"], 2)
    assert line.startswith("text.pdf: unknown format '.pdf': ")


def test_wrong_column(here: Path, capsys: Capture) -> None:
    (here / "text.jsonl").write_text('{"sentence": "The cat sleeps.", "id": 1}\n')
    edit("files: [text.txt]", "files: [text.jsonl], text_column: sentense")
    line = fails(capsys, ["tokenize", "pipeline.yaml"], 3)
    assert line == (
        "text.jsonl:1: no column 'sentense': did you mean 'sentence'? allowed: sentence, id"
    )


def test_typo_in_the_pipeline_file(here: Path, capsys: Capture) -> None:
    edit("tokens_per_batch", "token_per_batch")
    for stage in ("tokenize", "train", "repro"):
        line = fails(capsys, [stage, "pipeline.yaml"], 2)
        assert line.startswith(
            f"pipeline.yaml:{_line_with('token_per')}: students.small.train: unknown key"
            " 'token_per_batch': did you mean 'tokens_per_batch'? allowed: num_train_epochs, "
        )


def test_pairs_that_would_be_measured_as_single_texts(here: Path, capsys: Capture) -> None:
    edit("files: [text.txt]", "files: [text.tsv], text_pair_column: other, label_column: label")
    edit("    train:", "    evaluate:\n      - {kind: classification, file: t.tsv}\n    train:")
    assert fails(capsys, ["tokenize", "pipeline.yaml"], 2) == (
        f"pipeline.yaml:{_line_with('evaluate:')}: students.small.evaluate: 'classification' reads"
        " single texts, the student is made for pairs: set 'text_pair_column' to the column of the"
        " second text"
    )


def test_fidelity_to_embeddings_that_nobody_kept(here: Path, capsys: Capture) -> None:
    edit("{kind: embedding, storage: fp32}", "{kind: hidden, layers: [1]}")
    edit("{kind: embedding, loss: cosine}", "{kind: hidden, layers: {1: 1}}")
    edit("    train:", "    evaluate:\n      - {kind: fidelity}\n    train:")
    assert fails(capsys, ["train", "pipeline.yaml"], 2) == (
        f"pipeline.yaml:{_line_with('evaluate:')}: students.small.evaluate: 'fidelity' compares"
        " with the teacher's embeddings, and no cache of the student has them: add a target of"
        " kind: embedding to one, or take it out"
    )


def test_debug_shows_the_traceback_too(here: Path, capsys: Capture) -> None:
    edit("validation: 0.1", "validation: 1.5")
    wanted = (
        f"pipeline.yaml:{_line_with('1.5')}: corpora.text.validation: Input should be less than 1,"
        " found 1.5"
    )
    assert fails(capsys, ["train", "pipeline.yaml"], 2) == wanted
    assert cli.main(["train", "pipeline.yaml", "--debug"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n")
    assert shown.endswith(f"\nkdpipe: error: {wanted}\n")


def test_names_that_do_not_exist_in_the_file(here: Path, capsys: Capture) -> None:
    for old, new, where, allowed in (
        ("corpus: text", "corpus: texd", "caches.said.corpus names 'texd'", "text"),
        ("teacher: tiny", "teacher: tinny", "caches.said.teacher names 'tinny'", "tiny"),
        ("caches: [said]", "caches: [sayd]", "students.small.caches names 'sayd'", "said"),
    ):
        edit(old, new)
        line = fails(capsys, ["train", "pipeline.yaml"], 2)
        assert line == (
            f"pipeline.yaml:{_line_with(new)}: {where}, which does not exist: did you mean"
            f" '{allowed}'? allowed: {allowed}"
        )
        edit(new, old)


def test_of_several_students_the_one_that_cannot_be_trained_is_named(
    here: Path, capsys: Capture
) -> None:
    keys = "caches: [said], model: {kind: shape, hiden_size: 8}, objectives: [{kind: embedding}]"
    edit("students:\n", f"students:\n  wrong: {{{keys}}}\n")
    said = "a 'bert' model has no config key 'hiden_size'; did you mean 'hidden_size'?"
    assert fails(capsys, ["train", "pipeline.yaml"], 2) == f"student wrong: {said}"
    assert fails(capsys, ["train", "pipeline.yaml", "wrong"], 2) == said


def test_names_that_do_not_exist_on_the_command_line(here: Path, capsys: Capture) -> None:
    for stage, what, known in (
        ("tokenize", "corpus", "text"),
        ("cache-teacher", "cache", "said"),
        ("train", "student", "small"),
        ("evaluate", "student", "small"),
    ):
        line = fails(capsys, [stage, "pipeline.yaml", "zzz"], 2)
        assert line == f"no {what} is called 'zzz': allowed: {known}"


def test_no_teacher_folder_and_offline(here: Path, capsys: Capture) -> None:
    edit("model: teacher", "model: nobody/nothing-at-all")
    for stage in ("tokenize", "cache-teacher", "train"):
        line = fails(capsys, [stage, "pipeline.yaml"], 3)
        assert line == (
            "nobody/nothing-at-all is not on this disk and the hub cannot be reached: go online"
            " once, or name a local folder"
        )
    edit("nobody/nothing-at-all", "./models/nothing")
    line = fails(capsys, ["tokenize", "pipeline.yaml"], 3)
    assert line == "./models/nothing: no such folder, and not a hub id (owner/name)"


def test_teacher_that_is_no_encoder(here: Path, capsys: Capture) -> None:
    config = GPT2Config(
        vocab_size=512,
        n_positions=64,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=2,
        eos_token_id=3,
    )
    GPT2Model(config).save_pretrained(here / "decoder")
    for path in (here / "teacher").glob("*token*"):
        shutil.copy(path, here / "decoder")
    edit("model: teacher", "model: decoder")
    command(["tokenize", "pipeline.yaml"])
    capsys.readouterr()
    line = fails(capsys, ["cache-teacher", "pipeline.yaml"], 3)
    assert line == (
        "decoder is a 'gpt2' model, which is no text encoder: use one such as BERT, or a folder"
        " with sentence-transformers modules"
    )


def test_teacher_without_safetensors(here: Path, capsys: Capture) -> None:
    (here / "teacher/model.safetensors").rename(here / "teacher/pytorch_model.bin")
    for stage in ("tokenize", "cache-teacher", "train"):
        line = fails(capsys, [stage, "pipeline.yaml"], 3)
        assert line == (
            "teacher has no model.safetensors; pytorch_model.bin is not read, convert it to"
            " safetensors"
        )


def test_damaged_teacher(here: Path, capsys: Capture) -> None:
    path = here / "teacher/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    line = fails(capsys, ["cache-teacher", "pipeline.yaml"], 3)
    assert re.fullmatch(r"teacher: the model cannot be loaded \(Error while .+\)", line), line


def test_rows_longer_than_the_positions(here: Path, capsys: Capture) -> None:
    edit("max_seq_length: 32", "max_seq_length: 65")
    line = fails(capsys, ["tokenize", "pipeline.yaml"], 2)
    assert line == (
        "pipeline.yaml: corpora.text.max_seq_length is 65, 'tiny' has positions for 64 tokens:"
        " lower it"
    )


def test_rows_longer_than_the_positions_of_a_new_teacher(here: Path, capsys: Capture) -> None:
    path = here / "teacher/config.json"
    text = path.read_text()
    path.write_text(text.replace('"max_position_embeddings": 64', '"max_position_embeddings": 20'))
    line = fails(capsys, ["cache-teacher", "pipeline.yaml"], 3)
    assert line == (
        "artifacts/corpora/text has rows of 32 tokens, teacher 'tiny' has positions for 20: lower"
        " max_seq_length and run 'kdpipe tokenize'"
    )


def test_stages_in_the_wrong_order(here: Path, capsys: Capture) -> None:
    shutil.rmtree("artifacts/caches")
    line = fails(capsys, ["train", "pipeline.yaml"], 3)
    assert line == (
        "artifacts/caches/said does not exist: run 'kdpipe cache-teacher pipeline.yaml said'"
    )
    line = fails(capsys, ["evaluate", "pipeline.yaml"], 3)
    assert line == "artifacts/students/small does not exist: run 'kdpipe train pipeline.yaml small'"
    Path("artifacts/corpora/text/manifest.json").unlink()
    for stage in ("cache-teacher", "train"):
        line = fails(capsys, [stage, "pipeline.yaml"], 3)
        assert line == (
            "artifacts/corpora/text is not finished: run 'kdpipe tokenize pipeline.yaml text'"
        )


def test_cache_of_another_corpus(here: Path, capsys: Capture) -> None:
    with (here / "text.txt").open("a") as file:
        file.write("One more.\n")
    command(["tokenize", "pipeline.yaml"])
    capsys.readouterr()
    line = fails(capsys, ["train", "pipeline.yaml"], 3)
    assert re.fullmatch(
        r"artifacts/caches/said was made for another corpus than artifacts/corpora/text \(corpus:"
        r" \w{12} in the cache, \w{12} in the corpus; rows: 400 in the cache, 401 in the corpus\):"
        r" run 'kdpipe cache-teacher pipeline\.yaml said'",
        line,
    ), line


def test_corpus_for_another_teacher(here: Path, capsys: Capture) -> None:
    path = here / "teacher/tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    line = fails(capsys, ["cache-teacher", "pipeline.yaml"], 3)
    assert re.fullmatch(
        r"artifacts/corpora/text was tokenised for another model \(tokenizer \w{12}\) than teacher"
        r" 'tiny' \(tokenizer \w{12}\): set tokenizer: tiny for that corpus and run"
        r" 'kdpipe tokenize'",
        line,
    ), line


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("corpora/text", ["tokenize"]),
        ("caches/said", ["cache-teacher", "--verify"]),
    ],
)
def test_damaged_artifact(here: Path, capsys: Capture, kind: str, remedy: list[str]) -> None:
    path = sorted(Path("artifacts", kind).glob("[!m]*"))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    line = fails(capsys, ["train", "pipeline.yaml"], 3)
    told = "again" if len(remedy) == 1 else "with --verify, which computes it again"
    assert line == (
        f"{path} is damaged (digest differs from the manifest): run 'kdpipe {remedy[0]}' {told}"
    )
    command([*remedy, "pipeline.yaml"])
    command(["train", "pipeline.yaml"])


def test_layer_that_the_teacher_lacks(here: Path, capsys: Capture) -> None:
    edit("layers: [1]", "layers: [3]")
    line = fails(capsys, ["train", "pipeline.yaml"], 2)
    assert line == "the teacher has layers 1 to 2, not 3: choose among them"


def test_unknown_device(here: Path, capsys: Capture) -> None:
    for stage in ("train", "cache-teacher"):
        # Where there is nothing to do, nobody looks for one.
        if stage == "cache-teacher":
            Path("artifacts/caches/said/manifest.json").unlink()
        line = fails(capsys, [stage, "pipeline.yaml", "--device", "tpu"], 2)
        assert line == "device 'tpu' is not there: use auto, cpu, cuda or mps"


def _line_with(text: str) -> int:
    lines = Path("pipeline.yaml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)
