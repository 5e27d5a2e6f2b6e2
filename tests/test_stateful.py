"""A store and a cache beside a model in memory: whatever is done to both, they say the same."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors.torch import load

from kdpipe import artifact, io
from kdpipe.errors import ArtifactError
from kdpipe.store import Store
from tests import damage
from tests.conftest import Figure

QUESTIONS = [{"teacher": "t", "tokens": str(number)} for number in range(5)]
KIND = "kdpipe.cache"
NUMBERS = st.integers(0, len(QUESTIONS) - 1)
DAMAGES = st.sampled_from([damage.flipped, damage.cut, damage.longer])
counted = {"steps": 0}


def answer(number: int, writer: int) -> dict[str, torch.Tensor]:
    """What one writer finds; another one's numerics may differ."""
    return {"values": torch.arange(6.0).reshape(2, 3) + 10 * number + writer / 8}


class StoreMachine(RuleBasedStateMachine):
    """`self.kept` says what a shard should be: None where it is damaged, and not found out."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.store = Store(self.root / "store")
        self.folder = self.root / "cache"
        self.kept: dict[int, int | None] = {}
        self.made: dict[int, int] | None = None
        self.whole = True

    def teardown(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def key(self, number: int) -> str:
        return self.store.key(QUESTIONS[number])

    @rule(number=NUMBERS, writer=st.integers(0, 1))
    def put(self, number: int, writer: int) -> None:
        """The first of two writers wins, unless what it wrote cannot be what it was."""
        key = self.store.put(QUESTIONS[number], answer(number, writer), {"writer": writer})
        assert key == self.key(number)
        if self.kept.get(number) is None:
            self.kept[number] = writer

    @rule(number=NUMBERS, writer=st.integers(0, 1))
    def put_by_another_process(self, number: int, writer: int) -> None:
        mine, self.store = self.store, Store(self.root / "store")
        self.put(number, writer)
        self.store = mine

    @rule(number=NUMBERS)
    def look(self, number: int) -> None:
        receipt = self.store.find(self.key(number))
        assert (receipt is not None) == (number in self.kept)
        assert self.store.intact(self.key(number)) == (self.kept.get(number) is not None)

    @rule(number=NUMBERS)
    def drop(self, number: int) -> None:
        self.store.drop(self.key(number))
        self.kept.pop(number, None)
        assert self.store.find(self.key(number)) is None

    @rule(number=NUMBERS, change=DAMAGES, seed=st.integers(0, 2**31))
    def damage_a_shard(self, number: int, change: Any, seed: int) -> None:
        path = self.store.path(self.key(number))
        # Twice could be as it was.
        if self.kept.get(number) is not None:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(changed := change(data, random.Random(seed)))
            if len(changed) == len(data):
                self.kept[number] = None
            else:
                self.kept.pop(number)

    @rule(number=NUMBERS, change=DAMAGES, seed=st.integers(0, 2**31))
    def damage_a_receipt(self, number: int, change: Any, seed: int) -> None:
        path = self.store.path(self.key(number)).with_suffix(".json")
        if number in self.kept:
            path.write_bytes(change(path.read_bytes(), random.Random(seed)))
            self.kept.pop(number)

    @rule(number=NUMBERS)
    def lose_a_receipt(self, number: int) -> None:
        self.store.path(self.key(number)).with_suffix(".json").unlink(missing_ok=True)
        self.kept.pop(number, None)

    @rule()
    def verify(self) -> None:
        """What `--verify` does: what is damaged is forgotten."""
        for number in range(len(QUESTIONS)):
            if not self.store.intact(self.key(number)):
                self.store.drop(self.key(number))
                self.kept.pop(number, None)

    @rule()
    def collect(self) -> None:
        """A run was killed in the middle of a write, and the next one sweeps."""
        io.make_folder(self.store.root)
        (self.store.root / f"{io._OURS}999999999-x").write_bytes(b"half")
        io.sweep(self.store.root)
        assert not [*self.root.rglob(f"{io.TEMPORARY}*")]

    @precondition(lambda self: self.kept and None not in self.kept.values())
    @rule()
    def finish(self) -> None:
        """A cache of all that is there."""
        io.make_folder(self.folder)
        parts = []
        for number in sorted(self.kept):
            receipt = self.store.find(self.key(number))
            assert receipt is not None
            name = f"{number}.safetensors"
            io.place(self.store.path(self.key(number)), self.folder / name)
            parts.append(artifact.Part(name=name, bytes=receipt.bytes, digest=receipt.digest))
        io.prune(self.folder, {part.name for part in parts} | {artifact.MANIFEST})
        self.manifest = artifact.Manifest(
            format=KIND,
            version=artifact.VERSIONS[KIND],
            spec={},
            inputs={},
            facts={},
            files=tuple(parts),
        )
        artifact.finish(self.folder, self.manifest)
        self.made = {number: writer for number, writer in self.kept.items() if writer is not None}
        self.whole = True

    @precondition(lambda self: self.made and self.whole)
    @rule(change=DAMAGES, seed=st.integers(0, 2**31))
    def damage_the_cache(self, change: Any, seed: int) -> None:
        dice = random.Random(seed)
        path = dice.choice(sorted(self.folder.iterdir()))
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(change(data, dice))
        self.whole = False

    @precondition(lambda self: self.made)
    @rule()
    def read_the_cache(self) -> None:
        """All of it as it was made, or a line that says what is damaged."""
        assert self.made is not None
        assert artifact.is_current(self.folder, KIND, {}, {}, verify=True) == self.whole
        try:
            manifest, _ = artifact.open_finished(self.folder, KIND, "again")
            paths = [artifact.check(self.folder, part, "again") for part in manifest.files]
        except ArtifactError:
            assert not self.whole
            return
        assert self.whole
        for path in paths:
            number = int(path.stem)
            wanted = answer(number, self.made[number])
            assert torch.equal(load(path.read_bytes())["values"], wanted["values"])

    @invariant()
    def a_receipt_never_vouches_for_another_answer(self) -> None:
        counted["steps"] += 1
        for number, writer in self.kept.items():
            if writer is None:
                continue
            data = self.store.path(self.key(number)).read_bytes()
            assert torch.equal(load(data)["values"], answer(number, writer)["values"])


@pytest.mark.filterwarnings("ignore:.*hypothesis:UserWarning")
def test_the_store_and_its_model_say_the_same(figure: Figure, long: bool) -> None:
    examples, steps = (1000, 50) if long else (20, 25)
    counted["steps"] = 0
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[*HealthCheck],
        ),
    )
    figure(f"{counted['steps']:,} states of a store and a cache, as a model in memory has them")
