"""Where a run stands, on disk: enough to go on as if it had never stopped, and no pickle.

`<runs>/<fingerprint>/step-<n>/` holds `weights`, `best` and `optimizer` as safetensors and
`state.json`, written last, with their digests. A folder without a valid state does not count; the
one before it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from kdpipe import artifact, io
from kdpipe.errors import ArtifactError
from kdpipe.optimizer import memory_of, remember
from kdpipe.run import Progress, Training
from kdpipe.train_spec import TrainSpec

STATE = "state.json"
_KEPT = 2


def steps_between(spec: TrainSpec, total: int) -> int:
    """How many steps there are from one save to the next."""
    share = round(spec.save_steps * total, 6)  # 7 % of 100 is a little more than 7
    return math.ceil(share) if spec.save_steps < 1 else int(spec.save_steps)


def save(folder: Path, run: Training, log: dict[str, Any]) -> None:
    """Write a checkpoint of `run` and its log, then drop all but the newest ones."""
    target = folder / f"step-{run.progress.step:08d}"
    io.remove(target)
    io.make_folder(target)
    parts = {"weights": run.modules.state_dict(), "optimizer": memory_of(run.optimizer)}
    if run.best:
        parts["best"] = run.best
    digests = {}
    for name, tensors in parts.items():
        data = safetensors_bytes(_apart(tensors))
        io.write_file(target / f"{name}.safetensors", data)
        digests[name] = io.digest_bytes(data)
    state = {"progress": vars(run.progress), "scaler": run.scaler.state_dict(), "log": log}
    state["digests"] = digests
    # The order of keys is kept: the columns of the log and the manifest follow it.
    io.write_file(target / STATE, artifact.readable(state))
    for old in _found(folder)[:-_KEPT]:
        io.remove(old)


def resume(folder: Path, run: Training) -> dict[str, Any]:
    """Bring `run` to its newest valid checkpoint; its log, {} where there is none."""
    for target in reversed(_found(folder)):
        try:
            state = artifact.read_record(target / STATE)
            scaler = state["scaler"]
            loaded = {
                name: _load(target, name, digest) for name, digest in state["digests"].items()
            }
        except (FileNotFoundError, KeyError, ArtifactError, SafetensorError):
            continue
        run.modules.load_state_dict(loaded["weights"])
        remember(run.optimizer, loaded["optimizer"])
        run.scaler.load_state_dict(scaler)
        run.best.update(loaded.get("best", {}))
        vars(run.progress).update(vars(Progress(**state["progress"])))
        log: dict[str, Any] = state["log"]
        return log
    return {}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU; tied weights with memory of their own under each name, as safetensors wants."""
    kept: dict[str, Tensor] = {}
    seen = set[int]()
    for name, tensor in tensors.items():
        here = tensor.detach().to("cpu").contiguous()
        memory = here.untyped_storage().data_ptr()
        kept[name] = here.clone() if memory in seen else here
        seen.add(memory)
    return kept


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())


def _load(target: Path, name: str, digest: str) -> dict[str, Tensor]:
    path = target / f"{name}.safetensors"
    if io.digest_file(path) != digest:
        raise ArtifactError(f"{path} is damaged")
    return load_file(path)
