"""What is in the files of an artifact, held against what its manifest says of it.

Legend: N tokens of a block, V vectors of a shard. Every mistake is one line that names the file,
and the next file is looked at all the same.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from safetensors import safe_open

from kdpipe import artifact, blocks, corpus
from kdpipe.artifact import Manifest
from kdpipe.augment import write
from kdpipe.augment.write import TextFacts
from kdpipe.cache import KIND as CACHE
from kdpipe.cache import CacheFacts, name_of
from kdpipe.config import Frozen
from kdpipe.corpus import BlockFacts, Corpus, CorpusFacts
from kdpipe.device import Dtype
from kdpipe.errors import ArtifactError, explain
from kdpipe.hub import read_json
from kdpipe.importing import Importing
from kdpipe.known_rows import about_rows
from kdpipe.made_from import KIND as STUDENT
from kdpipe.masking import UNMASKED
from kdpipe.pipeline import CacheSpec
from kdpipe.progress import counted
from kdpipe.questions import Asking
from kdpipe.targets import Question
from kdpipe.tensor_files import Kind, header, listed, not_finite, shard_kinds
from kdpipe.write_student import CARD

Facts = TypeVar("Facts", bound=Frozen)
Pairs = dict[str, tuple[object, object]]
"""What the manifest says, and what was found."""
Check = Callable[[artifact.Part], str | None]
"""What is wrong with the size or the digest of a file; None where both are right."""
REMEDY = {
    write.KIND: "run 'kdpipe augment'",
    corpus.KIND: corpus.REMEDY,
    CACHE: "run 'kdpipe cache-teacher' with --verify, which computes it again",
    STUDENT: "delete it, then run 'kdpipe train'",
}


def problems(
    folder: Path, manifest: Manifest, of: Corpus | None, advance: Callable[[int], None]
) -> Iterator[str]:
    """All that is wrong in a folder; `of` is the corpus of a cache, `advance` is told of bytes."""
    known = dict[str, str | None]()

    def check(part: artifact.Part) -> str | None:
        # Blocks of equal tokens share a file, which then is listed more than once.
        if part.name not in known:
            known[part.name] = _damage(folder, part, REMEDY[manifest.format])
            advance(part.bytes)
        return known[part.name]

    if manifest.format == CACHE:
        yield from _cache(folder, manifest, of, check)
    else:
        kinds = {write.KIND: _texts, corpus.KIND: _corpus, STUDENT: _student}
        yield from kinds[manifest.format](folder, manifest, check)
    yield from _unlisted(folder, manifest)


def _damage(folder: Path, part: artifact.Part, remedy: str) -> str | None:
    try:
        artifact.check(folder, part, remedy)
    except (ArtifactError, OSError) as error:
        return str(explain(error) or error)
    return None


def _unlisted(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Files that a reader might take for a part: no part has a name that begins with a dot."""
    listed = {part.name for part in manifest.files} | {artifact.MANIFEST}
    listed |= {CARD} if manifest.format == STUDENT else set()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(name.startswith(".") for name in inside.parts)
        if not path.is_dir() and not hidden and inside.as_posix() not in listed:
            yield f"{path} is not in the manifest: delete it"


def facts_of(model: type[Facts], folder: Path, manifest: Manifest) -> Facts:
    """What the manifest tells of its kind; raises ArtifactError where it tells something else."""
    try:
        return model.model_validate(manifest.facts)
    except ValueError as error:
        reason = ", ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ArtifactError(
            f"{folder / artifact.MANIFEST} has other facts than a {manifest.format} ({reason}):"
            f" {REMEDY[manifest.format]}"
        ) from None


def _differ(what: Path, pairs: Pairs, remedy: str) -> Iterator[str]:
    for name, (said, found) in pairs.items():
        if said != found:
            yield f"{what}: {name} is {found}, the manifest says {said}: {remedy}"


def _texts(folder: Path, manifest: Manifest, check: Check) -> Iterator[str]:
    remedy, found, texts = REMEDY[write.KIND], list[str](), 0
    for part in manifest.files:
        if (damage := check(part)) is not None:
            found.append(damage)
            continue
        with (folder / part.name).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                texts += 1
                try:
                    json.loads(line)
                except (ValueError, RecursionError):
                    found.append(f"{folder / part.name}:{number} is not JSON: {remedy}")
    yield from found
    try:
        facts = facts_of(TextFacts, folder, manifest)
    except ArtifactError as error:
        yield str(error)
    else:
        pairs: Pairs = {} if found else {"texts": (facts.texts, texts)}
        yield from _differ(folder, pairs, remedy)


def _corpus(folder: Path, manifest: Manifest, check: Check) -> Iterator[str]:
    try:
        facts = facts_of(CorpusFacts, folder, manifest)
    except ArtifactError as error:
        yield str(error)
        yield from filter(None, map(check, manifest.files))
        return
    told = ("tokenizer", "prompt", "max_seq_length")
    yield from _differ(
        folder,
        {
            "files": ([block.name for block in facts.blocks], [one.name for one in manifest.files]),
            **{key: (manifest.inputs.get(key), str(getattr(facts, key))) for key in told},
            **{
                key: (getattr(facts, key), sum(getattr(block, key) for block in facts.blocks))
                for key in ("rows", "tokens", "masked")
            },
        },
        corpus.REMEDY,
    )
    held_out, longest, whole = 0, 0, True
    firsts = itertools.accumulate((block.rows for block in facts.blocks), initial=0)
    for part, block, first in zip(manifest.files, facts.blocks, firsts, strict=False):
        try:
            if (damage := check(part)) is not None:
                raise ArtifactError(damage)
            rows = blocks.read_block(folder / part.name, facts.vocabulary)
            block.check(rows, by_words=facts.by_words)
        except ArtifactError as error:
            whole = False
            yield str(error)
            continue
        except ValueError as error:
            whole = False
            yield f"{folder / part.name} is not a corpus block ({error}): {corpus.REMEDY}"
            continue
        pairs = _pairs_of_block(rows, part, block, facts)
        first_row: Pairs = {"first_row": (block.first_row, first)}
        yield from _differ(folder / part.name, pairs | first_row, corpus.REMEDY)
        held_out += int(rows.held_out.sum())
        longest = max(longest, int(np.diff(rows.starts).max()))
    totals: Pairs = {"held_out": (facts.held_out, held_out), "longest": (facts.longest, longest)}
    yield from _differ(folder, totals if whole else {}, corpus.REMEDY)


def _pairs_of_block(
    rows: blocks.Block, part: artifact.Part, block: BlockFacts, facts: CorpusFacts
) -> Pairs:
    read = rows.encoded(by_words=facts.by_words)
    masked = 0 if read.original is None else int((read.original != UNMASKED).sum())
    digest = corpus.tokens_digest(
        read.ids, read.lengths, read.second_at, read.original, read.spelling
    )
    return {
        "name": (part.name, f"block-{part.digest.rpartition(':')[2][:16]}.arrow"),
        "rows": (block.rows, len(rows.text_digest)),
        "tokens": (block.tokens, len(read.ids)),
        "masked": (block.masked, masked),
        "tokens_digest": (block.tokens_digest, digest),
    }


def _cache(folder: Path, manifest: Manifest, of: Corpus | None, check: Check) -> Iterator[str]:
    remedy = REMEDY[CACHE]
    try:
        facts = facts_of(CacheFacts, folder, manifest)
        asking = None if of is None else _asking(folder, manifest, facts, of)
    except ArtifactError as error:
        yield str(error)
        yield from dict.fromkeys(filter(None, map(check, manifest.files)))
        return
    told: Pairs = {
        "teacher": (manifest.inputs.get("teacher"), facts.teacher),
        "dtype": (manifest.inputs.get("dtype"), facts.dtype),
    }
    yield from _differ(folder, told, remedy)
    blocks = None if of is None else of.facts.blocks
    if of is not None:
        count = len(of.facts.blocks) * len(facts.questions)
        pairs: Pairs = {
            "tokenizer": (facts.tokenizer, of.facts.tokenizer),
            "rows": (facts.rows, of.facts.rows),
            "number of files": (len(manifest.files), count),
        }
        yield from _differ(folder, pairs, remedy)
    seen = set[str]()
    questions = itertools.cycle(facts.questions)
    for index, (part, question) in enumerate(zip(manifest.files, questions, strict=False)):
        rest = () if blocks is None else blocks[index // len(facts.questions) :]
        block = next(iter(rest), None)
        path = folder / part.name
        if asking is not None and block is not None:
            name = name_of(asking.full(block, question), question)
            if part.name != name:
                yield f"{path} stands where {name} should: {remedy}"
                continue
        if part.name in seen:
            continue
        seen.add(part.name)
        damage = check(part)
        at = None if of is None or block is None else (of, index // len(facts.questions))
        yield from [damage] if damage else _shard(path, question, facts, at)


def _asking(folder: Path, manifest: Manifest, facts: CacheFacts, of: Corpus) -> Asking:
    try:
        spec = CacheSpec.of_identity(manifest.spec)
    except ValueError as error:
        reason = ", ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ArtifactError(
            f"{folder / artifact.MANIFEST} has no section of a cache ({reason}): {REMEDY[CACHE]}"
        ) from None
    return (Importing if spec.files else Asking)(of, facts.teacher, spec, cast(Dtype, facts.dtype))


def _shard(
    path: Path, question: Question, facts: CacheFacts, at: tuple[Corpus, int] | None
) -> Iterator[str]:
    """Mistakes in the answer about a block of a corpus, which may not be there."""
    try:
        found = header(path, REMEDY[CACHE])
    except ArtifactError as error:
        yield str(error)
        return
    if at is None:
        # Without the corpus nobody knows how many vectors there are.
        rows, vectors = (found.get(name, Kind("", (0,))).shape[0] for name in ("rows", "values"))
    else:
        block = at[0].facts.blocks[at[1]]
        rows, vectors = block.rows, block.vectors(question.what)
    wanted = shard_kinds(question, rows, vectors, facts.widths[question.name])
    if found != wanted:
        yield f"{path} has {listed(found)} in place of {listed(wanted)}: {REMEDY[CACHE]}"
    elif at is not None and not _is_about(path, question, *at):
        yield f"{path} is about other rows than those of its block: {REMEDY[CACHE]}"
    for name, bad in not_finite(path):
        yield f"{path}: NaN or Inf in {counted(bad, 'number')} of {name}: {REMEDY[CACHE]}"


def _is_about(path: Path, question: Question, of: Corpus, index: int) -> bool:
    try:
        wanted = about_rows(of, index, question.what)
    except ArtifactError:
        return True  # what is wrong with the corpus is told where that is verified
    with safe_open(path, framework="pt") as shard:
        return all(torch.equal(shard.get_tensor(name), wanted[name]) for name in wanted)


def _student(folder: Path, manifest: Manifest, check: Check) -> Iterator[str]:
    remedy = REMEDY[STUDENT]
    for part in manifest.files:
        path = folder / part.name
        if (damage := check(part)) is not None:
            yield damage
            continue
        try:
            if path.name == "kdpipe.json":
                yield from _story(path, manifest)
            if path.suffix == ".safetensors":
                header(path, remedy)
                for name, bad in not_finite(path):
                    yield f"{path}: NaN or Inf in {counted(bad, 'number')} of {name}: {remedy}"
        except ArtifactError as error:
            yield str(error)
    there = {part.name for part in manifest.files}
    for name in sorted({"model.safetensors", "config.json", "kdpipe.json"} - there):
        yield f"{folder / name} is not in the manifest, and no student is without: {remedy}"


def _story(path: Path, manifest: Manifest) -> Iterator[str]:
    story = read_json(path)
    shape = story.get("shape")
    parameters = shape.get("parameters") if isinstance(shape, dict) else None
    pairs: Pairs = {
        "inputs": (manifest.inputs, story.get("inputs")),
        "shape.parameters": (manifest.facts.get("parameters"), parameters),
    }
    yield from _differ(path, pairs, REMEDY[STUDENT])
