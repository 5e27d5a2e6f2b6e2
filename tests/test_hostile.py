"""Thousands of hostile files: one line and an exit code; no traceback, no signal, no code run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kdpipe import checkpoint, job, records
from kdpipe.artifact import MANIFEST
from kdpipe.errors import ArtifactError
from kdpipe.hub import find_model
from kdpipe.load import load_encoder
from kdpipe.made_from import open_student
from kdpipe.modules import head_of, own_limit, transformer_folder
from kdpipe.pipeline import load_pipeline
from kdpipe.project import Project
from kdpipe.questions import missing
from kdpipe.tokenizer import load_tokenizer
from tests import fuzz
from tests.conftest import Figure
from tests.hostile_tokenizers import exploding
from tests.pieces import asking
from tests.sandbox import MEGABYTES, SECONDS, Outcome, run_all

Act = Callable[[], object]
FILE = Path("pipeline.yaml")
ALLOWED = {0, 2, 3}
ARTIFACTS = ("corpora/text", "caches/said", "caches/judged", "students/s")
MODEL_FILES = (
    *("config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
)


@contextlib.contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """Files and folders that are afterwards what they were."""
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        yield
    finally:
        for path, data in before.items():
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
            else:
                shutil.rmtree(path)
            if data is not None:
                path.write_bytes(data)


def use(project: Project) -> None:
    """All that stages read of what is finished."""
    corpus, caches = project.inputs("s")
    for name in (*caches, "judged"):
        cache = project.cache(name, corpus)
        cache.read(np.arange(corpus.facts.rows), cache.provides)
    corpus.gather(np.arange(corpus.facts.rows))
    corpus.labels(np.arange(corpus.facts.rows))
    open_student(project, "s")


def use_model(name: str) -> None:
    """All that is read of a model folder."""
    folder = find_model(name)
    head = head_of(folder)
    limit = own_limit(folder)
    tokenizer = load_tokenizer(transformer_folder(folder))
    tokenizer.encode(["The cat sleeps.", "zzz", f"{'a' * 3000}!{'=' * 100}"], min(limit, 512))
    load_encoder(folder, head)


@contextlib.contextmanager
def manifests(project: Project, dice: random.Random) -> Iterator[Act]:
    path = Path("artifacts", dice.choice(ARTIFACTS), MANIFEST)
    with kept(path):
        data = path.read_bytes()
        kind = dice.randrange(4)
        if kind == 0:
            path.write_bytes(dice.choice(fuzz.JSON_TEXTS))
        elif kind == 1:
            path.write_bytes(fuzz.bytes_of(dice, data))
        else:
            record = fuzz.mutated(dice, records.read_sealed(path))
            text = json.dumps(record).encode()
            if kind == 3:
                text = fuzz.bytes_of(dice, text)
            path.write_bytes(records.seal(text))
        yield lambda: use(project)


@contextlib.contextmanager
def names(project: Project, dice: random.Random) -> Iterator[Act]:
    """A manifest that names a file somewhere else."""
    folder = Path("artifacts", dice.choice(ARTIFACTS))
    path = folder / MANIFEST
    with kept(path):
        record = records.read_sealed(path)
        words = ["..", ".", "", "/", "~", "outside", "model.safetensors", "C:", "a\nb", "\u202e"]
        parts = [dice.choice(words) for _ in range(dice.randrange(1, 5))]
        name = dice.choice(["", "/", "../../../"]) + "/".join(parts)
        dice.choice(record["files"])["name"] = dice.choice([name, name + "\0", name * 100])
        path.write_bytes(records.seal(json.dumps(record).encode()))
        yield lambda: use(project)


@contextlib.contextmanager
def receipts(project: Project, dice: random.Random) -> Iterator[Act]:
    path = dice.choice(sorted(project.store.root.glob("*/*.json")))
    with kept(path):
        record = fuzz.mutated(dice, records.read_sealed(path))
        text = records.seal(json.dumps(record).encode())
        path.write_bytes(dice.choice([text, fuzz.bytes_of(dice, text), *fuzz.JSON_TEXTS[:3]]))
        yield lambda: missing(asking(project, project.corpus("text")), project.store, verify=False)


@contextlib.contextmanager
def pipelines(project: Project, dice: random.Random) -> Iterator[Act]:
    with kept(FILE):
        data = FILE.read_bytes()
        kind = dice.randrange(3)
        if kind == 0:
            FILE.write_bytes(dice.choice([*fuzz.YAML_TEXTS, *fuzz.JSON_TEXTS]))
        elif kind == 1:
            FILE.write_bytes(fuzz.bytes_of(dice, data))
        else:
            FILE.write_text(json.dumps(fuzz.mutated(dice, json.loads(data))))
        yield lambda: load_pipeline(FILE)


@contextlib.contextmanager
def blocks(project: Project, dice: random.Random) -> Iterator[Act]:
    folder = project.corpus_folder("text")
    path = dice.choice(sorted(folder.glob("block-*")))
    with kept(path, folder / MANIFEST):
        change = dice.choice([fuzz.bytes_of, fuzz.table])
        path.write_bytes(change(dice, path.read_bytes()))
        fuzz.reseal(folder, path.name)
        yield lambda: read_blocks(project)


def read_blocks(project: Project) -> None:
    corpus = project.corpus("text")
    corpus.gather(np.arange(corpus.facts.rows))
    corpus.labels(np.arange(corpus.facts.rows))
    assert len(corpus.token_digests) == len(corpus.text_digests) == corpus.facts.rows


@contextlib.contextmanager
def shards(project: Project, dice: random.Random) -> Iterator[Act]:
    folder = project.cache_folder(dice.choice(["said", "judged"]))
    path = dice.choice(sorted(folder.glob("*.safetensors")))
    with kept(path, folder / MANIFEST):
        data = path.read_bytes()
        path.unlink()
        size = int.from_bytes(data[:8], "little")
        lie = fuzz.header(dice, json.loads(data[8 : 8 + size]))
        path.write_bytes(dice.choice([lie, fuzz.bytes_of(dice, data)]))
        fuzz.reseal(folder, path.name)
        yield lambda: use(project)


@contextlib.contextmanager
def models(project: Project, dice: random.Random) -> Iterator[Act]:
    name = dice.choice(["teacher", "judge"])
    files = [path for file in MODEL_FILES if (path := Path(name, file)).is_file()]
    path, index = dice.choice(files), Path(name, "model.safetensors.index.json")
    with kept(path, index):
        kind = dice.randrange(5)
        if kind == 0:
            names = ["../outside.safetensors", "/dev/zero", "model.safetensors", "x.bin", "a/b", ""]
            index.write_text(json.dumps({"weight_map": {"a": dice.choice(names)}}))
        elif kind == 1:
            path.write_bytes(
                dice.choice([fuzz.bytes_of(dice, path.read_bytes()), *fuzz.JSON_TEXTS])
            )
        else:
            path.write_text(json.dumps(fuzz.mutated(dice, json.loads(path.read_bytes()))))
        yield lambda: use_model(name)


@contextlib.contextmanager
def tokenizers(project: Project, dice: random.Random) -> Iterator[Act]:
    path = Path("teacher/tokenizer.json")
    with kept(path):
        data = path.read_bytes()
        record = json.loads(data)
        small = {key: record[key] for key in record if key != "model"}
        changed = fuzz.mutated(dice, small)
        if isinstance(changed, dict):
            changed |= {"model": record["model"]}
        kind = dice.randrange(4)
        if kind == 0:
            path.write_bytes(fuzz.bytes_of(dice, data))
        elif kind == 1:
            path.write_text(json.dumps(exploding(dice, record)))
        else:
            path.write_text(json.dumps(changed))
        yield lambda: use_model("teacher")


@contextlib.contextmanager
def weights(project: Project, dice: random.Random) -> Iterator[Act]:
    path = Path("teacher/model.safetensors")
    with kept(path):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        lie = fuzz.header(dice, json.loads(data[8 : 8 + size]))
        path.write_bytes(dice.choice([lie, fuzz.bytes_of(dice, data)]))
        yield lambda: use_model("teacher")


@contextlib.contextmanager
def odd_files(project: Project, dice: random.Random) -> Iterator[Act]:
    """A link, a pipe, a device or a folder in the place of a file."""
    files = [path for path in Path("artifacts").rglob("*") if path.is_file()]
    files += [path for name in ("teacher", "judge") for path in Path(name).glob("*.*")]
    path = dice.choice([*sorted(files), FILE])
    with kept(path):
        # The pipeline file is what a user names: it may be a link.
        fuzz.odd_file(dice, path, Path("inside" if path == FILE else "../outside"))

        def act() -> None:
            if path == FILE:
                load_pipeline(FILE)
            elif path.parts[0] == "artifacts":
                use(project)
            else:
                use_model(path.parts[0])

        yield act


KINDS = (
    manifests,
    names,
    receipts,
    pipelines,
    blocks,
    shards,
    models,
    tokenizers,
    weights,
    odd_files,
)


def told(outcomes: list[Outcome], name: str) -> str:
    """What must not be, with the seeds that show it again; empty where all is well."""
    wrong = []
    for one in outcomes:
        said = one.line.removeprefix("kdpipe: error: ")
        faults = [
            f"exit code {one.code}" if one.code not in ALLOWED else "",
            "several lines" if "\n" in said else "",
            f"{one.seconds:.1f} s" if one.seconds > SECONDS else "",
            f"{one.megabytes} MB" if one.megabytes > MEGABYTES else "",
            f"canary: {one.canary}" if one.canary else "",
        ]
        if any(faults):
            wrong.append(f"{name} {one.seed}: {', '.join(filter(None, faults))}: {one.line[:400]}")
    return "\n".join(wrong)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files(
    finished: Project,
    figure: Figure,
    long: bool,
    kind: Callable[[Project, random.Random], contextlib.AbstractContextManager[Act]],
) -> None:
    Path("../outside").write_bytes(b"{}")
    Path("../outside.safetensors").write_bytes(Path("teacher/model.safetensors").read_bytes())
    use(finished)
    use_model("teacher")

    def attempt(seed: int) -> contextlib.AbstractContextManager[Act]:
        return kind(finished, random.Random(f"{kind.__name__} {seed}"))

    seeds = list(range(1100 if long else 45))
    outcomes = run_all(seeds, attempt, Path.cwd())
    assert [one.seed for one in outcomes] == seeds
    assert not (wrong := told(outcomes, kind.__name__)), wrong
    assert not Path("hostile-code-ran").exists()
    codes = Counter(one.code for one in outcomes)
    shown = ", ".join(f"{count:,} with {code}" for code, count in sorted(codes.items()))
    worst = max(one.seconds for one in outcomes)
    figure(
        f"{len(seeds):,} hostile {kind.__name__}: exit codes {shown}; at most {worst:.1f} s each"
    )


def test_the_canary_sings(finished: Project) -> None:
    """What the tests above wait for is seen when it happens."""

    @contextlib.contextmanager
    def bad(seed: int) -> Iterator[Act]:
        actions: list[Act] = [
            lambda: os.system("true"),
            lambda: pickle.loads(pickle.dumps(fuzz.Bomb())),
            lambda: Path("../outside").write_bytes(b""),
            lambda: Path("/etc/hostname").read_bytes(),
            lambda: exec(compile("1", "evil.py", "exec")),
            os.abort,
            lambda: "x" * (3 << 30),
            lambda: 1 // 0,
        ]
        yield actions[seed]

    outcomes = run_all(list(range(8)), bad, Path.cwd())
    assert [bool(one.canary) for one in outcomes[:5]] == [True] * 5
    assert [one.code for one in outcomes[5:]] == [-6, 6, 1]


def test_states_of_checkpoints(finished: Project, figure: Figure, long: bool) -> None:
    corpus = finished.corpus("text")
    work = job.prepare(finished, "s", corpus, {"said": finished.cache("said", corpus)}, "cpu")
    runs = Path("runs")
    checkpoint.save(runs, work.run, vars(work.log))
    (path,) = runs.glob("*/state.json")
    state = records.read_sealed(path)

    @contextlib.contextmanager
    def attempt(seed: int) -> Iterator[Act]:
        dice = random.Random(f"states {seed}")
        with kept(path):
            path.write_bytes(records.seal(json.dumps(fuzz.mutated(dice, state)).encode()))
            yield lambda: checkpoint.resume(runs, work.run)

    seeds = list(range(1000 if long else 40))
    outcomes = run_all(seeds, attempt, Path.cwd())
    assert not (wrong := told(outcomes, "states")), wrong
    figure(f"{len(seeds):,} hostile states of checkpoints: none does harm")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("sentence_bert_config.json", "max_seq_length", -(2**63)),
        ("sentence_bert_config.json", "max_seq_length", 0),
        ("config.json", "model_type", ["bert"]),
        ("config.json", "model_type", {}),
        ("config.json", "architectures", [1.5]),
        ("config.json", "architectures", [{}]),
    ],
)
def test_what_was_found_stays_mended(finished: Project, file: str, key: str, value: object) -> None:
    path = Path("teacher", file)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {key: value}))
    Path("teacher/modules.json").rename("teacher/no-modules")
    with contextlib.suppress(ArtifactError):
        use_model("teacher")


def test_a_manifest_is_no_link(finished: Project) -> None:
    path = finished.corpus_folder("text") / MANIFEST
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").absolute())
    with pytest.raises(ArtifactError, match="is a link to another file"):
        finished.corpus("text")
