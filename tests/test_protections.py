"""Every protection is needed: with any one taken out of a copy of the program, a test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Figure

ROOT = Path(__file__).parents[1]


class Protection(NamedTuple):
    """A few lines of the program, what is left of them, and tests that notice."""

    name: str
    file: str
    lines: str
    left: str
    tests: str


PROTECTIONS = [
    Protection(
        "files are durable before they get their name",
        "kdpipe/io.py",
        "                rest = rest[os.write(descriptor, rest) :]\n        os.fsync(descriptor)\n",
        "                rest = rest[os.write(descriptor, rest) :]\n",
        "tests/test_power_loss.py tests/test_io.py",
    ),
    Protection(
        "names are durable before a file is acknowledged",
        "kdpipe/io.py",
        "    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)\n",
        "    return\n    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)\n",
        "tests/test_power_loss.py",
    ),
    Protection(
        "files are written under another name first",
        "kdpipe/io.py",
        "        _write(temporary, [data])\n        os.replace(temporary, path)\n",
        "        remove(path)\n        _write(path, [data])\n",
        "tests/test_io.py tests/test_kill_anywhere.py",
    ),
    Protection(
        "what is published is not replaced",
        "kdpipe/io.py",
        "            os.link(temporary, path)\n        except FileExistsError:\n",
        "            os.replace(temporary, path)\n        except FileExistsError:\n",
        "tests/test_io.py",
    ),
    Protection(
        "one writer at a time",
        "kdpipe/io.py",
        "            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)\n",
        "            pass\n",
        "tests/test_io.py",
    ),
    Protection(
        "what killed runs left is swept",
        "kdpipe/io.py",
        '    for path in (found for found in folder.rglob(f"{_OURS}*")'
        " if not _is_being_written(found)):\n",
        "    for path in list[Path]():\n",
        "tests/test_io.py",
    ),
    Protection(
        "a file's digest is that of the manifest",
        "kdpipe/artifact.py",
        "    if found != file.digest:\n",
        "    if False:\n",
        "tests/test_artifact.py",
    ),
    Protection(
        "a file's size is that of the manifest",
        "kdpipe/artifact.py",
        '    if any(_size(f"{base}/{file.name}") != file.bytes for file in manifest.files):\n',
        "    if False:\n",
        "tests/test_artifact.py",
    ),
    Protection(
        "another version is refused",
        "kdpipe/artifact.py",
        "    if not isinstance(version, int) or version == VERSIONS[kind]:\n",
        "    if True:\n",
        "tests/test_golden.py",
    ),
    Protection(
        "a record has the digest of its own bytes",
        "kdpipe/records.py",
        "    return _with_digest(data.rpartition(_SEAL)[0]) == data\n",
        "    return True\n",
        "tests/test_flips.py",
    ),
    Protection(
        "a folder that is written again is not finished",
        "kdpipe/artifact.py",
        "    io.forget(folder / MANIFEST)\n",
        "    pass\n",
        "tests/test_artifact.py tests/test_power_loss.py",
    ),
    Protection(
        "what another section of the pipeline file made is refused",
        "kdpipe/artifact.py",
        "    if found:\n        shown",
        "    if False:\n        shown",
        "tests/test_wrong_joins.py",
    ),
    Protection(
        "a receipt that is about another shard does not count",
        "kdpipe/store.py",
        "        return receipt if whole and about else None\n",
        "        return receipt\n",
        "tests/test_store.py",
    ),
    Protection(
        "a cache belongs to one corpus",
        "kdpipe/cache.py",
        "    if other:\n",
        "    if False:\n",
        "tests/test_teacher.py tests/test_wrong_joins.py",
    ),
    Protection(
        "a shard has the shape that its question has",
        "kdpipe/cache.py",
        "        if found != wanted:\n            raise ArtifactError(\n"
        '                f"{path} has',
        '        if False:\n            raise ArtifactError(\n                f"{path} has',
        "tests/test_shapes.py",
    ),
    Protection(
        "values are finite as they are kept",
        "kdpipe/teacher.py",
        "    if not bool(bad.any()):\n        return\n    rows =",
        "    return\n    rows =",
        "tests/test_teacher.py",
    ),
    *(
        Protection(
            f"a question tells the {field}",
            "kdpipe/cache.py",
            f'        "{field}": {value},\n',
            "",
            "tests/test_questions.py",
        )
        for field, value in {
            "teacher": "teacher",
            "tokenizer": "corpus.tokenizer",
            "prompt_tokens": "corpus.prompt_tokens",
            "tokens": "tokens",
            "dtype": "dtype",
        }.items()
    ),
    Protection(
        "a student is of these inputs",
        "kdpipe/artifact.py",
        "    if (manifest.spec, manifest.version) != (spec, VERSIONS[kind])"
        " or manifest.inputs not in inputs:\n",
        "    if manifest.version != VERSIONS[kind]:\n",
        "tests/test_artifact.py",
    ),
    Protection(
        "a checkpoint's parts are those of its state",
        "kdpipe/checkpoint.py",
        "        if io.digest_bytes(data) != digest:\n",
        "        if False:\n",
        "tests/test_flips.py",
    ),
    Protection(
        "what is kept of a tokenizer is of that one",
        "kdpipe/known_tokenizers.py",
        '        return record.get("fingerprint") if about_this else None\n',
        '        return record.get("fingerprint")\n',
        "tests/test_known_tokenizers.py",
    ),
    Protection(
        "weights that may still change are read each time",
        "kdpipe/hub.py",
        "    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _TICK:\n",
        "    if False:\n",
        "tests/test_hub.py",
    ),
    Protection(
        "native code that reads text has limits",
        "kdpipe/supervised.py",
        "        if self.seconds <= self.share * SECONDS and grown <= self.share * BYTES:\n",
        "        if True:\n",
        "tests/test_supervised.py",
    ),
    Protection(
        "a normalizer is tried before it is loaded",
        "kdpipe/tokenizer_file.py",
        "        backend.encode_batch_fast(words)\n",
        "        pass\n",
        "tests/test_supervised.py",
    ),
    Protection(
        "pairs of long texts are not cut by the backend",
        "kdpipe/tokenizer.py",
        "        long = [] if single else long_pairs(texts, max_seq_length)\n",
        "        long = list[int]()\n",
        "tests/test_long_pairs.py",
    ),
    Protection(
        "what was made of a file that was written into is not kept",
        "kdpipe/mapped.py",
        "            self.note(check, path)\n",
        "            pass\n",
        "tests/test_changed_meanwhile.py",
    ),
    Protection(
        "weights lie in memory of their own",
        "kdpipe/load.py",
        "        tensor.data = tensor.data.clone()\n",
        "        pass\n",
        "tests/test_changed_meanwhile.py",
    ),
    Protection(
        "the teacher is still the one that was asked",
        "stages/cache_teacher.py",
        "        who.refuse_other(wanted.said_by)\n",
        "",
        "tests/test_changed_meanwhile.py",
    ),
    Protection(
        "what a student learns from is still what was asked for",
        "stages/train_student.py",
        "        if made_from.asked(project, whole) != asked:\n",
        "        if False:\n",
        "tests/test_changed_meanwhile.py",
    ),
    Protection(
        "text is still what it was when its digest was taken",
        "kdpipe/write_corpus.py",
        "    _refuse_changed(source_digests(spec, root), inputs)\n",
        "",
        "tests/test_changed_meanwhile.py",
    ),
    Protection(
        "a signal that a shell has ignored stays so",
        "kdpipe/stop.py",
        "    before = {number: was for number, was in before.items() if was != signal.SIG_IGN}\n",
        "",
        "tests/test_interrupted.py",
    ),
    Protection(
        "a signal is the end, whatever a library raises after it",
        "kdpipe/cli.py",
        "    if _came or isinstance(error, KeyboardInterrupt):\n",
        "    if isinstance(error, KeyboardInterrupt):\n",
        "tests/test_cli.py",
    ),
]
NAMES = [protection.name for protection in PROTECTIONS]


@pytest.mark.parametrize("protection", PROTECTIONS, ids=NAMES)
def test_the_lines_are_there(protection: Protection) -> None:
    assert (ROOT / protection.file).read_text("utf-8").count(protection.lines) == 1
    for name in protection.tests.split():
        assert (ROOT / name).is_file()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("protection", PROTECTIONS, ids=NAMES)
def test_without_it_a_test_fails(protection: Protection, tmp_path: Path, figure: Figure) -> None:
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "artifacts", "reports")
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=unwanted, symlinks=True)
    if not (copy / "kdpipe/stages").exists():
        (copy / "kdpipe/stages").symlink_to("../stages")
    file = copy / protection.file
    file.write_text(file.read_text("utf-8").replace(protection.lines, protection.left), "utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider"]
    words += protection.tests.split()
    # Processes that begin in another folder have to find the copy, too.
    path = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(words, cwd=copy, env=path, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert done.returncode == 1, done.stdout[-3000:]
    assert failed, done.stdout[-3000:]
    figure(f"{protection.name}: {failed[0].split()[1]}")
