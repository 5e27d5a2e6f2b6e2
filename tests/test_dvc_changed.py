"""Text, tokenizer, teacher changed under DVC: the right stages run, and nothing of before stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import pieces, trials
from tests.tiny import tiny_teacher_folder
from tests.trials import Scenario, differences
from tests.under_dvc import TARGETS, Dvc, new_project

KEPT = (".kdpipe/store/", ".kdpipe/tokenizers/")
"""Answers to other questions: of use when a change is taken back."""


def other_text(project: Path) -> None:
    (project / "text.txt").unlink()
    pieces.write_text(project / "text.txt", pieces.sentences(trials.ROWS, 10))


def other_tokenizer(project: Path) -> None:
    file = project / "teacher/tokenizer.json"
    before = file.read_text()
    after = before.replace('"lowercase": true', '"lowercase": false')
    assert after != before
    file.unlink()
    file.write_text(after)


def other_teacher(project: Path) -> None:
    shutil.rmtree(project / "teacher")
    tiny_teacher_folder(project / "teacher", seed=9)
    other_tokenizer(project)


CHANGES = {
    other_text: {*TARGETS.values()},
    other_tokenizer: {*TARGETS.values()} - {"augment-more"},
    other_teacher: {*TARGETS.values()} - {"augment-more"},
}
"""What is changed, and the stages that then run."""


@pytest.mark.timeout(600)
def test_old_results_are_there(
    under_dvc: dict[str, Scenario], dvc: Dvc, trial: Path, long: bool
) -> None:
    under_dvc["evaluate"].again(trial)
    for number, (change, expected) in enumerate(CHANGES.items(), 1):
        change(trial)
        done = dvc.repro(trial)
        assert done.code == 0, done.told
        assert {*done.ran} == expected, change.__name__
        reads = "the teacher read" in done.told, "artifacts/corpora/text: up to date" in done.told
        assert reads == (True, change is other_teacher), done.told
        if long or number == len(CHANGES):
            fresh = trial.with_name("fresh")
            new_project(fresh)
            for earlier in [*CHANGES][:number]:
                earlier(fresh)
            assert dvc.repro(fresh).code == 0
            other = [name for name in differences(trial, fresh) if not f"{name}/".startswith(KEPT)]
            assert not other, change.__name__
            shutil.rmtree(fresh)
