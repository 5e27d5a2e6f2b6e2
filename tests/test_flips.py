"""Damaged files of every kind are found before a value of theirs is used, and named."""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from kdpipe import checkpoint, job, records, train
from kdpipe.errors import ArtifactError
from kdpipe.job import Job
from kdpipe.project import Project
from kdpipe.questions import missing
from kdpipe.store import Store
from tests import damage
from tests.conftest import Figure
from tests.damage import KINDS, put, reading, refusal
from tests.ends import Capture, command, fails
from tests.pieces import asking

Damage = Callable[[bytes, random.Random], bytes]
DAMAGES: tuple[Damage, ...] = (damage.zeroed, damage.cut, damage.longer)


def files_of(kind: str) -> list[Path]:
    found = sorted(Path().glob(KINDS[kind][0]))
    assert found
    return found


def test_bit_flips(finished: Project, figure: Figure, long: bool) -> None:
    trials, tried = 1000 if long else 20, 0
    for kind in KINDS:
        files = [
            (path, path.read_bytes(), reading(finished, kind, path)) for path in files_of(kind)
        ]
        for _, _, read in files:
            read()
        for seed in range(trials):
            dice = random.Random(f"{kind} {seed}")
            path, data, read = dice.choice(files)
            with put(path, damage.flipped(data, dice)):
                refusal(read, path, (kind, seed))
            tried += 1
    figure(f"{tried:,} bit flips in {len(KINDS)} kinds of files: all found")


def test_sectors_of_zeros_ends_cut_off_and_added(
    finished: Project, figure: Figure, long: bool
) -> None:
    trials, tried = 200 if long else 4, 0
    for kind in KINDS:
        files = [
            (path, path.read_bytes(), reading(finished, kind, path)) for path in files_of(kind)
        ]
        for seed in range(trials):
            for number, change in enumerate(DAMAGES):
                dice = random.Random(f"{kind} {seed} {number}")
                path, data, read = dice.choice(files)
                if (changed := change(data, dice)) == data:
                    continue
                with put(path, changed):
                    refusal(read, path, (kind, seed, change.__name__))
                tried += 1
    figure(f"{tried:,} files cut, lengthened or with zeros: all found")


def test_files_in_the_place_of_others(finished: Project, figure: Figure, long: bool) -> None:
    trials, tried = 200 if long else 5, 0
    for kind, seed in itertools.product(("block", *damage.PARTS), range(trials)):
        files = files_of(kind)
        others = [path for other in KINDS if other != kind for path in files_of(other)]
        dice = random.Random(f"{kind} {seed}")
        path, other = dice.sample(files, 2)
        foreign = dice.choice(others)
        reads = {one: reading(finished, kind, one) for one in (path, other)}
        swap, data = (path.read_bytes(), other.read_bytes())
        for replaced in (data, foreign.read_bytes(), None):
            with put(path, replaced):
                refusal(reads[path], path, (kind, seed, other, foreign))
            tried += 1
        with put(path, data), put(other, swap):
            for one, read in reads.items():
                refusal(read, one, (kind, seed))
        tried += 2
    figure(f"{tried:,} files swapped, foreign, doubled or missing: all found")


@pytest.mark.parametrize(
    "what", ["receipt", "shard", "no receipt", "no shard", "lost, and damaged"]
)
def test_the_store_is_mended(
    finished: Project, figure: Figure, long: bool, capsys: Capture, what: str
) -> None:
    trials = (1000 if what in {"receipt", "shard"} else 100) if long else 10
    corpus, store = finished.corpus("text"), Store(finished.store.root)
    questions = asking(finished, corpus)
    keys = [
        store.key(questions.full(block, question))
        for block in corpus.facts.blocks
        for question in questions.questions
    ]
    assert not missing(questions, store, verify=True)
    for seed in range(trials):
        dice = random.Random(f"{what} {seed}")
        key = dice.choice(keys)
        shard, receipt = store.path(key), store.path(key).with_suffix(".json")
        before = shard.read_bytes(), receipt.read_bytes()
        tensors = load(before[0])
        found = store.find(key)
        assert found is not None
        for path in {
            "receipt": [receipt],
            "shard": [shard],
            "no receipt": [],
            "no shard": [],
            "lost, and damaged": [shard],
        }[what]:
            changed = damage.flipped(path.read_bytes(), dice)
            path.unlink()
            path.write_bytes(changed)
        if what == "no shard":
            shard.unlink()
        if what in {"no receipt", "lost, and damaged"}:
            receipt.unlink()
        capsys.readouterr()
        (todo,) = missing(questions, store, verify=what == "shard")
        assert len(todo.questions) == 1, seed
        said = capsys.readouterr().err
        lost = what in {"no receipt", "lost, and damaged"}
        assert said == (
            "" if lost else f"{shard} or its receipt is damaged: it is computed again\n"
        )
        assert store.put(found.question, tensors, found.made_by) == key
        assert (shard.read_bytes(), receipt.read_bytes()) == before, seed
        assert not missing(questions, store, verify=True), seed
    figure(f"{trials:,} times {what} in the store: all mended")


def test_what_is_known_of_a_teacher(finished: Project, figure: Figure, long: bool) -> None:
    trials = 1000 if long else 20
    paths = sorted(finished.store.root.glob("teacher-*.json"))
    for seed in range(trials):
        dice = random.Random(seed)
        path = dice.choice(paths)
        with put(path, damage.flipped(path.read_bytes(), dice)):
            refusal(functools.partial(records.read_sealed, path), path, seed)
    figure(f"{trials:,} bit flips in what is known of a teacher: all found")


def trained(project: Project, runs: Path) -> tuple[Job, dict[int, dict[str, torch.Tensor]]]:
    """A run with two checkpoints, and its weights at these."""
    corpus = project.corpus("text")
    work = job.prepare(project, "s", corpus, {"said": project.cache("said", corpus)}, "cpu")
    weights = {}
    for step in train.fit(work.run):
        work.log.add(step, full=True)
        checkpoint.save(runs, work.run, vars(work.log))
        weights[step.number] = {k: v.clone() for k, v in work.run.modules.state_dict().items()}
    return work, weights


def test_checkpoints_that_are_damaged_are_left_out(
    finished: Project, figure: Figure, long: bool, capsys: Capture
) -> None:
    trials = 1000 if long else 12
    runs = Path("runs")
    work, weights = trained(finished, runs)
    newest = sorted((runs / "step-00000004").iterdir())
    assert [path.stem for path in newest] == ["best", "optimizer", "state", "weights"]
    tried = 0
    for path in newest:
        for seed in range(trials):
            dice = random.Random(f"{path.name} {seed}")
            change = dice.choice([damage.flipped] * 7 + [*DAMAGES])
            data = path.read_bytes()
            gone = path.name != "state.json" and dice.random() < 0.05
            changed = change(data, dice)
            if changed == data:
                continue
            capsys.readouterr()
            with put(path, None if gone else changed):
                checkpoint.resume(runs, work.run)
            said = capsys.readouterr().err
            assert said.count("\n") == 1, (path, seed)
            assert str(path) in said, (path, seed)
            assert work.run.progress.step == 3, (path, seed)
            tried += 1
        for name, tensor in work.run.modules.state_dict().items():
            assert torch.equal(tensor, weights[3][name])
    figure(f"{tried:,} damaged checkpoints: all left out, the one before is used")


def test_without_a_checkpoint_that_is_whole_a_run_begins_again(
    finished: Project, capsys: Capture
) -> None:
    runs = Path("runs")
    work, _ = trained(finished, runs)
    for path in runs.glob("step-*/weights.safetensors"):
        path.write_bytes(damage.flipped(path.read_bytes(), random.Random(0)))
    shutil.rmtree(runs / "step-00000004")
    capsys.readouterr()
    assert checkpoint.resume(runs, work.run) == {}
    assert capsys.readouterr().err == (
        "runs/step-00000003/weights.safetensors is damaged: the checkpoint before it is used, or"
        " the run begins again\n"
    )


@pytest.mark.parametrize("name", ["../weights", "weights/../../x", "other"])
def test_a_state_names_no_other_files(finished: Project, name: str) -> None:
    runs = Path("runs")
    trained(finished, runs)
    path = runs / "step-00000004/state.json"
    state = records.read_sealed(path)
    state["digests"][name] = state["digests"].pop("weights")
    path.write_bytes(records.seal(json.dumps(state).encode()))
    with pytest.raises(ArtifactError, match="is damaged"):
        checkpoint._read(path.parent)


def test_a_damaged_student_is_not_asked(finished: Project, capsys: Capture) -> None:
    path = Path("artifacts/students/s/model.safetensors")
    words = ["predict", "artifacts/students/s", "text.txt", "vectors.npy"]
    with put(path, damage.flipped(path.read_bytes(), random.Random(1))):
        assert fails(capsys, words, 3) == (
            f"{path} is damaged (digest differs from the manifest): delete artifacts/students/s,"
            " then train it again; or delete its manifest.json, if it was changed on purpose"
        )
    assert not Path("vectors.npy").exists()
    command(words)
