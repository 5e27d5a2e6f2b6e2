"""Stage `augment`: texts to more texts, altered copies that keep their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdpipe import versions
from kdpipe.options import Device, Names, PipelineFile, StageVersion, expect_version

if TYPE_CHECKING:
    from kdpipe.augment.tools import Tools
    from kdpipe.project import Project


def augment(
    pipeline: PipelineFile,
    names: Names = None,
    device: Device = "auto",
    stage_version: StageVersion = None,
) -> None:
    """Make altered copies of texts: JSON lines in artifacts/texts/NAME, which a corpus can read.

    A killed run continues with the part that it was in.

    Example: kdpipe augment pipelines/demo.yaml noisy
    """
    from kdpipe import artifact, io
    from kdpipe.augment import write
    from kdpipe.pipeline import choose
    from kdpipe.progress import counted, say
    from kdpipe.project import open_project

    expect_version(stage_version, versions.AUGMENT)
    project = open_project(pipeline)
    tools: Tools | None = None
    for name in choose(project.pipeline.augmentations, names, "augmentation"):
        spec, folder = project.pipeline.augmentations[name], project.texts_folder(name)
        inputs = {"meaning": str(versions.AUGMENT), **write.text_inputs(spec, project.root)}
        with io.lock(project.lock("texts", name), f"texts {name}"):
            # The parts are read too: a damaged one is made again.
            if artifact.is_current(folder, write.KIND, spec.identity(), inputs, verify=True):
                say(f"{folder}: up to date")
                continue
            tools = tools or _tools(project, device)
            facts = write.write_texts(spec, folder, project.root, inputs, tools)
        say(f"{folder}: {counted(facts.rows, 'row')} became {facts.texts:,}")


def _tools(project: Project, device: str) -> Tools:
    from kdpipe.augment.tools import Tools
    from kdpipe.device import pick_device

    return Tools(project.root, pick_device(device))
