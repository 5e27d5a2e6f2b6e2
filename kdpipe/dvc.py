"""A pipeline file as DVC sees it: the complete dvc.yaml, one stage for each entry, no templates.

DVC tracks manifests (small, with digests of all behind them), whole sections of the pipeline file
(a stage whose section changed without consequence finds its output up to date), and the version of
the stage, which stands in its command.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from kdpipe import io, versions
from kdpipe.config import nearest
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.pipeline import Pipeline
from kdpipe.sources import Source
from kdpipe.students import FromCheckpoint

Stage = dict[str, Any]
FILE = "dvc.yaml"

_HEADER = "# Written by 'kdpipe repro' from {}: edit that file, not this one."
_HINT = "# Where entries were added to that file, 'kdpipe repro' has to come before 'dvc repro'."
_OURS = re.compile(re.escape(_HEADER).replace(r"\{\}", "(.+)"))
# DVC removes what is not persistent before a stage runs, and copies what is cached.
_KEPT = {"cache": False, "persist": True}
_IGNORED = {".gitignore": ("/artifacts/", "/.kdpipe/"), ".dvcignore": ("/.kdpipe/",)}


class _Plan(NamedTuple):
    pipeline: Pipeline
    file: str
    """The pipeline file, relative to the root."""
    root: Path


def dvc_yaml(pipeline: Pipeline, path: Path, root: Path) -> str:
    """The text of dvc.yaml in `root` for the pipeline that was read from `path`.

    Raises:
        UsageError: the pipeline file is outside `root`.
        ArtifactError: a file of a source or a task is not there.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1 << 16
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = StringIO()
    yaml.dump({"stages": stages(pipeline, path, root)}, text)
    return f"{_HEADER.format(_inside(path, root))}\n{_HINT}\n{text.getvalue()}"


def written_from(text: str) -> str | None:
    """The pipeline file that a dvc.yaml was written from; None where someone else wrote it."""
    match = _OURS.match(text)
    return match[1] if match else None


def stages(pipeline: Pipeline, path: Path, root: Path) -> dict[str, Stage]:
    """The stages of dvc.yaml by name, such as `train-small`; raises as `dvc_yaml` does."""
    plan = _Plan(pipeline, _inside(path, root), root)
    measured = [name for name in pipeline.students if pipeline.tasks_of(name)]
    parts: list[tuple[str, Iterable[str], Callable[[_Plan, str], Stage]]] = [
        ("augment", pipeline.augmentations, _augment),
        ("tokenize", pipeline.corpora, _tokenize),
        ("cache-teacher", pipeline.caches, _cache_teacher),
        ("train", dict.fromkeys(map(pipeline.trained_as, pipeline.students)), _train),
        ("evaluate", measured, _evaluate),
    ]
    return {f"{kind}-{name}": make(plan, name) for kind, names, make in parts for name in names}


def choose(found: Iterable[str], targets: list[str]) -> list[str]:
    """The asked stages; raises UsageError for one that is not there."""
    known = [*found]
    for target in targets:
        if target not in known:
            raise UsageError(f"no stage is called {target!r}: {nearest(target, known)}")
    return targets


def ignore(root: Path) -> None:
    """Add to .gitignore and .dvcignore what kdpipe makes, where it is missing."""
    for name, wanted in _IGNORED.items():
        path = root / name
        text = path.read_text("utf-8") if path.is_file() else ""
        there = {line.strip().strip("/") for line in text.splitlines()}
        missing = [line for line in wanted if line.strip("/") not in there]
        if missing:
            text += "" if text.endswith("\n") or not text else "\n"
            io.write_file(path, (text + "\n".join(missing) + "\n").encode("utf-8"))


def _augment(plan: _Plan, name: str) -> Stage:
    spec = plan.pipeline.augmentations[name]
    deps = [*_sources(plan, spec.sources), *_given(plan, spec.vectors)]
    deps += [path for model in spec.models for path in _folder(plan, model)]
    outs = [f"artifacts/texts/{name}/manifest.json"]
    return _stage(
        plan, "augment", versions.AUGMENT, name, deps, [f"augmentations.{name}"], outs=outs
    )


def _tokenize(plan: _Plan, name: str) -> Stage:
    spec = plan.pipeline.corpora[name]
    files = _sources(plan, spec.every_source)
    keys = [f"corpora.{name}"]
    if isinstance(spec.tokenizer, str):
        teacher = plan.pipeline.teachers.get(spec.tokenizer)
        files += _folder(plan, teacher.model if teacher else spec.tokenizer)
        keys += [f"teachers.{spec.tokenizer}"] if teacher else []
    outs = [f"artifacts/corpora/{name}/manifest.json"]
    return _stage(plan, "tokenize", versions.TOKENIZE, name, files, keys, outs=outs)


def _cache_teacher(plan: _Plan, name: str) -> Stage:
    spec = plan.pipeline.caches[name]
    deps = [f"artifacts/corpora/{spec.corpus}/manifest.json"]
    deps += _given(plan, (file.file for file in spec.files))
    keys = [f"caches.{name}"]
    if spec.teacher is not None:
        deps += _folder(plan, plan.pipeline.teachers[spec.teacher].model)
        keys.append(f"teachers.{spec.teacher}")
    outs = [f"artifacts/caches/{name}/manifest.json"]
    return _stage(plan, "cache-teacher", versions.CACHE_TEACHER, name, deps, keys, outs=outs)


def _train(plan: _Plan, whole: str) -> Stage:
    names = plan.pipeline.trained_in(whole)
    deps, keys = list[str](), [f"students.{name}" for name in names]
    keys += [f"bodies.{whole}"] if whole in plan.pipeline.bodies else []
    for name in names:
        spec = plan.pipeline.student(name)
        corpus = plan.pipeline.corpora[spec.corpus_of(plan.pipeline.caches)]
        read_by = [name for name in plan.pipeline.teachers if name == corpus.tokenizer]
        asked = [plan.pipeline.caches[cache].teacher for cache in spec.caches]
        teachers = [*dict.fromkeys(name for name in (*asked, *read_by) if name is not None)]
        models = [plan.pipeline.teachers[teacher].model for teacher in teachers]
        if isinstance(spec.model, FromCheckpoint):
            models.append(spec.model.model)
        deps += [*_inputs(plan, name), *(path for model in models for path in _folder(plan, model))]
        deps += _given(plan, spec.model.files())
        keys += [f"teachers.{teacher}" for teacher in teachers]
    outs = [f"artifacts/students/{name}/manifest.json" for name in names]
    keys = [*dict.fromkeys(keys)]
    return _stage(plan, "train", versions.TRAIN, whole, deps, keys, outs=outs)


def _evaluate(plan: _Plan, name: str) -> Stage:
    tasks = plan.pipeline.tasks_of(name)
    files = _given(plan, (path for task in tasks for path in task.files()))
    deps = [f"artifacts/students/{name}/manifest.json", *_inputs(plan, name), *files]
    made = {
        kind: [f"reports/{name}/{file}" for file in files]
        for kind, files in {
            "outs": ["table.tsv"],
            "metrics": ["metrics.json", "speed.json"],
            "plots": ["report.svg"],
        }.items()
    }
    return _stage(plan, "evaluate", versions.EVALUATE, name, deps, [f"students.{name}"], **made)


def _stage(
    plan: _Plan,
    kind: str,
    version: int,
    name: str,
    deps: list[str],
    keys: list[str],
    **made: list[str],
) -> Stage:
    command = f"kdpipe {kind} --stage-version {version} {shlex.quote(plan.file)} {name}"
    stage: Stage = {"cmd": _literal(command)}
    if deps:
        stage["deps"] = [_literal(path) for path in sorted(set(deps))]
    if keys:
        stage["params"] = [{_literal(plan.file): keys}]
    return stage | {what: [{path: dict(_KEPT)} for path in paths] for what, paths in made.items()}


def _inputs(plan: _Plan, student: str) -> list[str]:
    """Manifests of a student's caches and of their corpora."""
    spec = plan.pipeline.students[student]
    corpus = spec.corpus_of(plan.pipeline.caches)
    return [
        *(f"artifacts/caches/{cache}/manifest.json" for cache in spec.caches),
        f"artifacts/corpora/{corpus}/manifest.json",
    ]


def _sources(plan: _Plan, sources: Iterable[Source]) -> list[str]:
    """What sources read: the user's own files, and manifests of texts that a stage makes."""
    paths = [path for source in sources for path in source.paths(plan.root)]
    made = {f"artifacts/texts/{name}" for name in plan.pipeline.augmentations} & {*paths}
    own = _given(plan, (path for path in paths if path not in made))
    return [*own, *(f"{path}/manifest.json" for path in sorted(made))]


def _given(plan: _Plan, paths: Iterable[str]) -> list[str]:
    """Paths of the user's own files, which no stage makes."""
    found = list(paths)
    for path in found:
        if not (plan.root / path).exists():
            raise ArtifactError(f"{path} does not exist: check the path in {plan.file}")
    return found


def _folder(plan: _Plan, model: str) -> list[str]:
    made = Path(model).parts
    if made[:2] == ("artifacts", "students") and made[2:3] and made[2] in plan.pipeline.students:
        # Of another stage, whose folder also holds what is no input, such as the model card.
        return [f"artifacts/students/{made[2]}/manifest.json"]
    return [model] if (plan.root / model).is_dir() else []


def _inside(path: Path, root: Path) -> str:
    relative = Path(os.path.relpath(path, root))
    if ".." in relative.parts:
        raise UsageError(f"{path} is outside {root.resolve()}: run kdpipe in a folder above it")
    return relative.as_posix()


def _literal(text: str) -> str:
    """DVC reads `${...}` as a template."""
    return text.replace("${", r"\${")
