"""Stage `tokenize`: text files to a corpus of token ids."""

from __future__ import annotations

from kdpipe import versions
from kdpipe.options import Names, PipelineFile, StageVersion, expect_version


def tokenize(
    pipeline: PipelineFile, names: Names = None, stage_version: StageVersion = None
) -> None:
    """Turn text into token ids, once: Arrow files in artifacts/corpora/NAME.

    Example: kdpipe tokenize pipelines/demo.yaml docs
    """
    from kdpipe import artifact, corpus, io
    from kdpipe.pipeline import choose
    from kdpipe.progress import counted, say
    from kdpipe.project import open_project
    from kdpipe.write_corpus import inputs_of, write_corpus

    expect_version(stage_version, versions.TOKENIZE)
    project = open_project(pipeline)
    for name in choose(project.pipeline.corpora, names, "corpus"):
        spec, folder = project.pipeline.corpora[name], project.corpus_folder(name)
        reading = project.reading(name)
        inputs = inputs_of(spec, reading, project.root)
        with io.lock(project.lock("corpus", name), f"corpus {name}"):
            # Its blocks are read too: a damaged one is made again by the command that errors name.
            if artifact.is_current(folder, corpus.KIND, spec.identity(), inputs, verify=True):
                say(f"{folder}: up to date")
                continue
            inputs["tokenizer"] = reading.known.confirmed()
            facts = write_corpus(spec, folder, reading, project.root, inputs)
        say(
            f"{folder}: {counted(facts.rows, 'row')} ({facts.held_out:,} held out),"
            f" {counted(facts.tokens, 'token')}, {facts.tokens / facts.rows:.1f} a row;"
            f" {counted(facts.duplicates, 'duplicate')} left out; {counted(facts.cut_rows, 'row')}"
            f" cut at {facts.max_seq_length} tokens"
        )
