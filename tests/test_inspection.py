"""What `kdpipe inspect` tells of artifacts and of their files, held against what is in them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from kdpipe import inspection, records
from kdpipe.cli import main
from kdpipe.errors import ArtifactError, UsageError
from tests import ends, small
from tests.ends import Capture, command, edit
from tests.reader import decode, read_blocks, read_manifest, read_safetensors
from tests.runs import new_job, stopped_at, student
from tests.sealed import seal

CORPUS, CACHE = Path("artifacts/corpora/text"), Path("artifacts/caches/said")
STUDENT = Path("artifacts/students/small")
TARGETS = "[{kind: hidden, layers: [2], storage: int8}, {kind: embedding, storage: fp16}]"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a student, and a cache of two questions."""
    for root in ends.made_project(tmp_path_factory.mktemp("made"), tokens_per_block=512):
        edit("[{kind: embedding, storage: fp32}]", TARGETS)
        edit("max_steps: 40", "max_steps: 4")
        command(["cache-teacher", "pipeline.yaml"])
        command(["train", "pipeline.yaml"])
        yield root


def told(path: Path) -> dict[str, str]:
    """Facts by name; lines that belong together with blanks between."""
    found, last = dict[str, list[str]](), ""
    for name, value in inspection.inspect(path).facts:
        last = name or last
        found.setdefault(last, []).append(value)
    return {name: "\n".join(lines) for name, lines in found.items()}


def test_a_corpus(here: Path) -> None:
    manifest, digest = read_manifest(CORPUS)
    blocks, facts = read_blocks(CORPUS), manifest["facts"]
    lengths = [length for block in blocks for length in block["length"].to_pylist()]
    held = sum(sum(block["held_out"].to_pylist()) for block in blocks)
    size = sum(path.stat().st_size for path in CORPUS.glob("*.arrow"))
    source = manifest["inputs"]["source.0"][:12]
    assert told(CORPUS) == {
        "what": f"kdpipe.corpus, version {manifest['version']}",
        "digest": digest[:12],
        "made from": f"meaning 2\ntokenizer (tiny) {facts['tokenizer'][:12]}\nmax_seq_length 32\n"
        f"source.0 (text.txt) {source}",
        "spec": "sources: [{files: [text.txt], text_column: text, split_words: false, kind: files}]"
        "\ntokenizer: tiny\nmax_seq_length: 32\nvalidation: 0.1\nseed: 0\ndeduplicate: true",
        "files": f"{len(blocks)} files, {size / 1000:.3g} kB",
        "size": f"400 rows, {sum(lengths):,} tokens in {len(blocks)} blocks",
        "tokenizer": f"{facts['tokenizer'][:12]}, {facts['vocabulary']} tokens",
        "longest row": f"{max(lengths)} tokens, at most 32",
        "cut": f"{lengths.count(32)} rows",
        "duplicates": "0 rows left out",
        "held out": f"{held} rows ({held / 4:.1f} %)",
        "labels": "none",
    }


def test_labels_are_counted(project: Path) -> None:
    small.write(project, {})
    for name in ("reviews", "tags"):
        command(["tokenize", "p.yaml", name])
        labels = [
            label
            for block in read_blocks(Path("artifacts/corpora", name))
            for label in block["label"].to_pylist()
        ]
        flat = [tag for one in labels for tag in (one if isinstance(one, list) else [one])]
        counts = {tag: flat.count(tag) for tag in sorted({*flat})}
        shown = dict(
            pair.rsplit(" ", 1)
            for pair in told(Path("artifacts/corpora", name))["labels"].split(", ")
        )
        assert {tag: int(count) for tag, count in shown.items()} == counts
    numbers = ["text\tlabel", "One stone.\t0.5", "Two stones.\t2.0", "Three stones.\t"]
    Path("reviews.tsv").write_text("\n".join(numbers) + "\n")
    command(["tokenize", "p.yaml", "reviews"])
    said = "2 numbers, 0.5 to 2, mean 1.25, 1 row without"
    assert told(Path("artifacts/corpora/reviews"))["labels"] == said


def test_a_cache(here: Path) -> None:
    manifest, digest = read_manifest(CACHE)
    facts, files = manifest["facts"], manifest["files"]
    read: dict[str, list[np.ndarray]] = {"embedding": [], "hidden.2": []}
    sizes = dict.fromkeys(read, 0)
    for index, file in enumerate(files):
        name, storage = [("embedding", "fp16"), ("hidden.2", "int8")][index % 2]
        sizes[name] += file["bytes"]
        read[name].append(decode(read_safetensors(CACHE / file["name"])[0], storage))
    page, blocks = inspection.inspect(CACHE), len(files) // 2
    assert blocks <= 8  # all are looked at
    wanted = []
    for name, storage in (("embedding", "fp16"), ("hidden.2", "int8")):
        values = np.concatenate(read[name])
        norms = np.linalg.norm(values.astype(np.float64), axis=1)
        shape = [f"{size:,}" for size in values.shape]
        some = [f"{one:.4g}" for one in (norms.mean(), norms.min(), norms.max())]
        wanted.append((name, *shape, storage, f"{sizes[name]:,}", *some, "0", "0"))
    assert [*map(tuple, page.rows)] == wanted
    shown = told(CACHE)
    assert shown["made from"].splitlines() == [
        "meaning 3",
        f"corpus (text) {read_manifest(CORPUS)[1][:12]}",
        f"teacher (tiny) {facts['teacher'][:12]}",
        "dtype fp32",
    ]
    assert (shown["digest"], shown["to fp32"]) == (digest[:12], "none, it is fp32")
    assert shown["looked at"] == f"{blocks} of {blocks} blocks"


def test_vectors_that_are_zero_or_no_numbers_are_counted(here: Path) -> None:
    path = next(CACHE.glob("embedding*"))
    values = load_file(path)["values"]
    values[:2], values[2, 0], values[3, 1] = 0, np.nan, np.inf
    path.unlink()
    path.write_bytes(save({"values": values}))
    seal(CACHE)
    row = inspection.inspect(CACHE).rows[0]
    assert (row[0], row[-2:]) == ("embedding", ("2", "2"))


def test_damage_is_a_line_and_no_end(here: Path) -> None:
    for folder, pattern in ((CACHE, "hidden*"), (CORPUS, "*.arrow")):
        path = min(folder.glob(pattern))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.unlink()
        path.write_bytes(bytes(data))
        assert told(folder)["damage"].startswith(
            f"{path} is damaged (digest differs from the manifest): run 'kdpipe "
        )
    assert [row[0] for row in inspection.inspect(CACHE).rows] == ["embedding"]
    (STUDENT / "model.safetensors").write_bytes(b"no tensors")
    assert told(STUDENT)["damage"].startswith(
        f"{STUDENT}/model.safetensors is no safetensors file ("
    )


def test_a_cache_without_blocks(here: Path) -> None:
    seal(CACHE, lambda record: record.update(files=[]))
    rows = inspection.inspect(CACHE).rows
    assert [[*row[1:3], *row[4:]] for row in rows] == [["0", "0", "0", "-", "-", "-", "0", "0"]] * 2


def test_a_student(here: Path) -> None:
    manifest, digest = read_manifest(STUDENT)
    weights = read_safetensors(STUDENT / "model.safetensors")[0]
    numbers = sum(value.size for value in weights.values())
    shown, measured = told(STUDENT), manifest["facts"]["measured"]
    assert inspection.inspect(STUDENT).rows == [
        ("model.safetensors", str(len(weights)), f"{numbers:,}", "F32", "0")
    ]
    assert shown["digest"] == digest[:12]
    assert shown["made from"].splitlines() == [
        "meaning 2",
        f"corpus {read_manifest(CORPUS)[1][:12]}",
        f"cache.said {read_manifest(CACHE)[1][:12]}",
    ]
    assert shown["parameters"] == f"{manifest['facts']['parameters']:,}"
    assert shown["steps"] == "4, the best was 4"
    assert shown["measured"] == ", ".join(f"{key} {value:.4f}" for key, value in measured.items())
    assert shown["teacher"] == "teacher"
    # The manifest is as good a name as its folder.
    assert inspection.inspect(STUDENT / "manifest.json") == inspection.inspect(STUDENT)


def test_files_alone(here: Path) -> None:
    shard = next(CACHE.glob("hidden*"))
    tensors = load_file(shard)
    assert [*map(tuple, inspection.inspect(shard).rows)] == [
        ("counts", "I32", str([*tensors["counts"].shape]), "0"),
        ("rows", "U8", str([*tensors["rows"].shape]), "0"),
        ("scale", "F32", str([*tensors["scale"].shape]), "0"),
        ("values", "I8", str([*tensors["values"].shape]), "0"),
    ]
    block = min(CORPUS.glob("*.arrow"))
    page = inspection.inspect(block)
    assert [row[0] for row in page.rows] == [
        *("row", "text_digest", "held_out", "length", "input_ids"),
    ]
    assert page.facts[0] == ("what", f"a block of {_rows(block)} rows")
    receipt = next(Path(".kdpipe/store").glob("*/*.json"))
    said = records.read_sealed(receipt)
    shown = told(receipt)
    assert {name: shown[name] for name in ("teacher", "tokens", "dtype")} == {
        name: said["question"][name] for name in ("teacher", "tokens", "dtype")
    }
    assert (shown["shard"], shown["key"]) == ("there, of that size and digest", "of this question")
    other = receipt.with_name("0" * 64 + ".json")
    shutil.copy(receipt, other)
    shown = told(other)
    assert (shown["shard"], shown["key"]) == ("not there", "of another question")
    damaged = receipt.with_suffix(".safetensors")
    data = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(data[:-1] + b"x")
    assert told(receipt)["shard"] == "damaged: run 'kdpipe cache verify --repair'"


def _rows(block: Path) -> int:
    facts = read_manifest(CORPUS)[0]["facts"]["blocks"]
    return int(next(one["rows"] for one in facts if one["name"] == block.name))


def test_a_checkpoint(project: Path) -> None:
    work = new_job(project, student())
    stopped_at(work, 6, project / "runs")
    (folder,) = (project / "runs").glob("step-*")
    page = inspection.inspect(folder)
    names = ["best", "optimizer", "weights"]
    assert sorted(row[0] for row in page.rows) == names
    (row,) = [row for row in page.rows if row[0] == "weights"]
    state = work.run.modules.state_dict()
    assert row[1:3] == (str(len(state)), f"{sum(map(torch.numel, state.values())):,}")
    assert page.facts[1] == ("steps", "6, the best was 5")
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert told(folder)["damage"] == f"{path}: its digest is not that of state.json"


def test_the_command_prints_it_all(here: Path, capsys: Capture) -> None:
    command(["inspect", str(CACHE)])
    out, err = capsys.readouterr()
    assert err == ""
    for name, value in inspection.inspect(CACHE).facts:
        assert re.search(rf"^{re.escape(name)} *{re.escape(value)} *$", out, re.MULTILINE), name
    for row in inspection.inspect(CACHE).rows:
        assert [line.split() for line in out.splitlines() if line.split() == [*row]]


def test_what_is_nothing_of_ours_is_refused(here: Path, capsys: Capture) -> None:
    remedy = (
        "name the folder of an artifact or of a checkpoint, or a .safetensors file, a block"
        " (.arrow) or a receipt (.json)"
    )
    for path in (Path("text.txt"), Path("artifacts")):
        with pytest.raises(UsageError) as caught:
            inspection.inspect(path)
        assert str(caught.value) == f"{path} is nothing to inspect: {remedy}"
    with pytest.raises(ArtifactError, match=r"^nowhere does not exist: check the path$"):
        inspection.inspect(Path("nowhere"))
    with pytest.raises(UsageError, match=r"kdpipe.json is no receipt of the store: name one, or"):
        inspection.inspect(STUDENT / "kdpipe.json")
    assert main(["inspect", "nowhere"]) == 3
    # What is read from files is shown as it is, whatever it looks like.
    seal(CORPUS, lambda record: record["spec"].update(tokenizer="[/b]"))
    capsys.readouterr()
    command(["inspect", str(CORPUS)])
    assert "tokenizer: [/b]" in capsys.readouterr().out
