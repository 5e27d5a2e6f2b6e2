"""Where a run stands, on disk: enough to go on as if it had never stopped, and no pickle.

`<runs>/<fingerprint>/step-<n>/` holds `weights`, `best` and, until the run has ended, `optimizer`
as safetensors, and `state.json`, written last, with their digests. A folder without a valid state
does not count; the one before it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from kdpipe import artifact, io, records
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError
from kdpipe.optimizer import memory_of, remember
from kdpipe.progress import say
from kdpipe.run import Progress, Training
from kdpipe.train_spec import TrainSpec

STATE = "state.json"
_KEPT = 2
Part = Literal["weights", "optimizer", "best"]


class State(Frozen):
    """What `state.json` says."""

    progress: Progress
    scaler: dict[str, int | float]
    """Of fp16's loss; empty in other number types."""
    log: dict[str, Any]
    digests: dict[Part, str]
    """Of the other files."""

    @model_validator(mode="after")
    def _has_weights(self) -> State:
        if "weights" not in self.digests:
            raise ValueError("key 'digests' needs weights")
        return self


def steps_between(spec: TrainSpec, total: int) -> int:
    """How many steps there are from one save to the next."""
    share = round(spec.save_steps * total, 6)  # 7 % of 100 is a little more than 7
    return math.ceil(share) if spec.save_steps < 1 else int(spec.save_steps)


def save(folder: Path, run: Training, log: dict[str, Any], *, ended: bool = False) -> None:
    """Write a checkpoint of `run` and its log, then drop all but the newest ones.

    Of a run that has ended there is only what its result is made of.
    """
    target = folder / f"step-{run.progress.step:08d}"
    io.make_folder(target)
    parts = {"weights": run.modules.state_dict()}
    if not ended:
        parts["optimizer"] = memory_of(run.optimizer)
    if run.best and not (ended and run.progress.best_step == run.progress.step):
        parts["best"] = run.best
    digests = {}
    for name, tensors in parts.items():
        data = safetensors_bytes(_apart(tensors))
        io.write_file(target / f"{name}.safetensors", data)
        digests[name] = io.digest_bytes(data)
    state = {"progress": vars(run.progress), "scaler": run.scaler.state_dict(), "log": log}
    state["digests"] = digests
    # The order of keys is kept: the columns of the log and the manifest follow it.
    io.write_file(target / STATE, records.seal(artifact.readable(state)))
    for old in _found(folder)[:-_KEPT]:
        io.remove(old)


def resume(folder: Path, run: Training) -> dict[str, Any]:
    """Bring `run` to its newest valid checkpoint; its log, {} where there is none.

    What is damaged is left out, and said.
    """
    for target in reversed(_found(folder)):
        try:
            state, loaded = _read(target)
        except ArtifactError as error:
            say(f"{error}: the checkpoint before it is used, or the run begins again")
            continue
        run.modules.load_state_dict(loaded["weights"])
        remember(run.optimizer, loaded.get("optimizer", {}))
        run.scaler.load_state_dict(state.scaler)
        # A run that ended at its best step has these weights once.
        ended_best = "optimizer" not in loaded and run.spec.load_best_model_at_end
        ended_best &= bool(state.progress.best)
        run.best.update(loaded.get("best", loaded["weights"] if ended_best else {}))
        vars(run.progress).update(vars(state.progress))
        return state.log
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


def _read(target: Path) -> tuple[State, dict[Part, dict[str, Tensor]]]:
    """All that is in a checkpoint; raises ArtifactError where one byte is not what was written."""
    path = target / STATE
    try:
        state = State.model_validate(records.read_sealed(path))
    except ValidationError as error:
        raise ArtifactError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
    loaded = {name: _load(target, name, digest) for name, digest in state.digests.items()}
    return state, loaded


def _load(target: Path, name: str, digest: str) -> dict[str, Tensor]:
    path = target / f"{name}.safetensors"
    try:
        # The bytes that are loaded are those that were looked at.
        data = path.read_bytes()
        if io.digest_bytes(data) != digest:
            raise ArtifactError(f"{path} is damaged")
        return load(data)
    except (FileNotFoundError, SafetensorError):
        raise ArtifactError(f"{path} is missing or damaged") from None
