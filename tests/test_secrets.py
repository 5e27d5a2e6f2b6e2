"""What is secret is nowhere written, and without a hub id nobody is called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdpipe import artifact, cli
from tests import ends
from tests.conftest import Figure
from tests.ends import Capture, command, edit

SECRETS = {
    "HF_TOKEN": "hf_CANARYcanaryCANARYcanary",
    "HUGGING_FACE_HUB_TOKEN": "plainCANARYofthehub",
    "WANDB_API_KEY": "0123CANARY4567canary89",
    "AWS_SECRET_ACCESS_KEY": "CANARY/aws+secret",
    "MY_PASSWORD": "CANARYpassword",
}
STAGES = ("tokenize", "cache-teacher", "train", "evaluate")


@pytest.fixture
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def here(_secrets: None, here: Path) -> Path:
    """The same with secrets in the environment."""
    return here


def sung(*texts: str) -> list[str]:
    return [value for value in SECRETS.values() for text in texts if value in text]


def assert_on_no_disk(root: Path) -> int:
    """How many files have been looked into."""
    files = [path for path in root.rglob("*") if path.is_file()]
    for path in files:
        assert not sung(path.read_bytes().decode("latin-1")), path
    return len(files)


def test_secrets_of_the_environment(here: Path, capsys: Capture, figure: Figure) -> None:
    shutil.rmtree("artifacts")
    shutil.rmtree(".kdpipe")
    edit("max_steps: 40", "max_steps: 2")
    command(["tokenize", "pipeline.yaml", "--debug"])
    command(["cache-teacher", "pipeline.yaml", "--dry-run"])
    for stage in STAGES[1:]:
        command([stage, "pipeline.yaml", "--debug"])
    assert not sung(*capsys.readouterr())
    files = assert_on_no_disk(here)
    figure(f"{len(SECRETS)} secrets, {files} files of a whole run: in none of them")


@pytest.mark.parametrize("stage", STAGES[:3])
def test_a_crash_that_tells_everything(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    urls = "https://user:CANARYofurl@hub.example/x Authorization: Bearer CANARYofbearer"
    tokens = "ghp_CANARYcanary1234 github_pat_CANARYcanary AKIACANARYCANARY12 sk-CANARYcanary12"

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError(f"{dict(os.environ)} {urls} {tokens}")

    monkeypatch.setattr(artifact, "open_finished", crash)
    for words in ([stage, "pipeline.yaml"], [stage, "pipeline.yaml", "--debug"]):
        assert cli.main(words) == 1
        out, err = capsys.readouterr()
        assert "this is a bug" in err
        assert ("Traceback" in err) == ("--debug" in words)
        assert not sung(out, err)
        for canary in ("CANARYofurl", "CANARYofbearer", *tokens.split()):
            assert canary not in out + err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model: teacher", "model: https://user:hf_CANARYcanaryCANARYcanary@hub.example/x"),
        ("model: teacher", "model: teacher, token: hf_CANARYcanaryCANARYcanary"),
        ("model: teacher", "model: teacher, revision: [hf_CANARYcanaryCANARYcanary]"),
        ("tokenizer: tiny", "tokenizer: hf_CANARYcanaryCANARYcanary"),
        ("corpus: text", "corpus: hf_CANARYcanaryCANARYcanary"),
        ("files: [text.txt]", "files: ['https://me:hf_CANARYcanaryCANARYcanary@example/t.txt']"),
    ],
)
def test_secrets_in_the_pipeline_file(here: Path, capsys: Capture, old: str, new: str) -> None:
    edit(old, new)
    for stage in STAGES:
        for words in ([stage, "pipeline.yaml"], [stage, "pipeline.yaml", "--debug"]):
            assert cli.main(words) in {2, 3}
            assert not sung(*capsys.readouterr())
    before = Path("pipeline.yaml").read_text()
    Path("pipeline.yaml").write_text("")
    assert_on_no_disk(here)
    assert sung(before)


@pytest.mark.parametrize("value", ["trust_remote_code: true", "allow_pickle: true"])
def test_code_is_not_asked_for_by_a_pipeline_file(here: Path, capsys: Capture, value: str) -> None:
    edit("model: teacher", f"model: teacher, {value}")
    key = value.partition(":")[0]
    line = ends.fails(capsys, ["cache-teacher", "pipeline.yaml"], 2)
    assert f"unknown key {key!r}" in line


CALLS = """
import json, sys
calls = []
own = {"socket.__new__", "socket.gethostname"}
def listen(event, arguments):
    # An address of this machine alone is the name of a file.
    local = len(arguments) > 1 and isinstance(arguments[1], (str, bytes))
    if event.startswith("socket.") and event not in own and not local:
        calls.append(f"{event} {arguments!r:.200}")
sys.addaudithook(listen)
from kdpipe import cli
codes = [cli.main([stage, "pipeline.yaml"]) for stage in sys.argv[1:]]
print(json.dumps([codes, calls]))
"""


def test_nobody_is_called_for_local_input(here: Path, figure: Figure) -> None:
    """In a process that nothing keeps from it, not even the setting to be offline."""
    edit("max_steps: 40", "max_steps: 2")
    environment = {k: v for k, v in os.environ.items() if not k.endswith("OFFLINE")}
    words = [sys.executable, "-c", CALLS, *STAGES]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes, calls = json.loads(done.stdout.splitlines()[-1])
    assert (codes, calls) == ([0] * len(STAGES), [])
    figure(f"{len(calls)} calls of the network in {len(STAGES)} stages")
