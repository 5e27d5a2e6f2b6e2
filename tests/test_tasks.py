"""The tasks against independent arithmetic, and what a user with a wrong file is told."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.stats
import torch

from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder, embed
from kdpipe.errors import ArtifactError, NonFiniteError
from kdpipe.metrics import neighbour_recall, pair_spearman
from kdpipe.modules import HeadSpec
from kdpipe.tasks import Fidelity, Similarity
from kdpipe.tasks.subject import HeldOut, Subject, embed_rows, embed_texts
from tests.tiny import SENTENCES, tiny_encoder, tiny_tokenizer

PAIRS = [
    (SENTENCES[index], SENTENCES[index + 1 + index % 3], 5.0 - index % 7 + index / 100)
    for index in range(0, 40, 2)
]


def subject(encoder: Encoder | None = None, *, limit: int = 64, prompt: str = "") -> Subject:
    encoder = tiny_encoder() if encoder is None else encoder
    return Subject("tiny", encoder, tiny_tokenizer(), limit, prompt, "fp32")


def held_out(rows: int = 60, teacher: Encoder | None = None) -> HeldOut:
    encoded = tiny_tokenizer().encode(SENTENCES[:rows], 64)
    tokens = Tokens(torch.from_numpy(encoded.ids), torch.from_numpy(encoded.lengths))
    said = embed(tiny_encoder(seed=9) if teacher is None else teacher, tokens, "fp32")
    return HeldOut(tokens, said.numpy())


def by_hand(encoder: Encoder, text: str, limit: int = 64) -> npt.NDArray[np.float32]:
    """One text alone through the transformer: mean of its tokens, length 1."""
    ids = tiny_tokenizer().backend.encode(text).ids
    ids = ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
    with torch.inference_mode():
        states = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    mean: npt.NDArray[np.float32] = states.mean(0)
    return mean / np.linalg.norm(mean)


def write_pairs(path: Path) -> None:
    names = ("sentence1", "sentence2", "score")
    rows = [dict(zip(names, pair, strict=True)) for pair in PAIRS]
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([names, *PAIRS])


def test_embeddings_of_texts_are_those_of_each_text_alone() -> None:
    encoder = tiny_encoder()
    expected = np.stack([by_hand(encoder, text) for text in SENTENCES])
    assert embed_texts(subject(encoder), SENTENCES) == pytest.approx(expected, abs=1e-5)


def test_long_texts_are_cut_to_the_limit_of_the_subject() -> None:
    encoder, text = tiny_encoder(), " ".join(SENTENCES[:4])
    expected = by_hand(encoder, text, limit=9)
    assert embed_texts(subject(encoder, limit=9), [text])[0] == pytest.approx(expected, abs=1e-5)
    assert expected != pytest.approx(by_hand(encoder, text), abs=1e-3)


def test_the_prompt_is_put_before_every_text() -> None:
    encoder = tiny_encoder()
    found = embed_texts(subject(encoder, prompt="the question: "), SENTENCES[:2])
    expected = np.stack([by_hand(encoder, f"the question: {text}") for text in SENTENCES[:2]])
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_head_that_leaves_the_prompt_out_is_told_how_long_it_is() -> None:
    encoder = tiny_encoder()
    encoder.head = HeadSpec(include_prompt=False, normalize=True)
    (found,) = embed_texts(subject(encoder, prompt="the question: "), ["A dog waits."])
    ids = tiny_tokenizer().backend.encode("the question: A dog waits.").ids
    with torch.inference_mode():
        states = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    mean = states[ids.index(_ids(":")[0]) + 1 :].mean(0)
    assert found == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def _ids(text: str) -> list[int]:
    ids: list[int] = tiny_tokenizer().backend.encode(text, add_special_tokens=False).ids
    return ids


def test_a_model_that_gives_nan_is_named() -> None:
    encoder = tiny_encoder()
    with torch.no_grad():
        encoder.get_parameter("model.embeddings.word_embeddings.weight")[_ids("fox")[0]] = torch.nan
    message = "tiny gives NaN or Inf for 1 of 60 texts: train it with a lower learning_rate"
    with pytest.raises(NonFiniteError, match=message):
        embed_texts(subject(encoder), SENTENCES)
    with pytest.raises(NonFiniteError, match=message):
        embed_rows(subject(encoder), held_out())


def test_spread_takes_whole_rows_from_all_over() -> None:
    rows = held_out()
    second_at = rows.tokens.lengths - 2
    rows = HeldOut(replace(rows.tokens, second_at=second_at, prompt_tokens=1), rows.teacher)
    few = rows.spread(7)
    taken = [0, 10, 20, 30, 39, 49, 59]
    mine, whole = few.tokens.ids.split(few.tokens.lengths.tolist()), rows.tokens.ids
    parts = whole.split(rows.tokens.lengths.tolist())
    assert [row.tolist() for row in mine] == [parts[row].tolist() for row in taken]
    assert few.tokens.second_at is not None
    assert few.tokens.second_at.tolist() == second_at[taken].tolist()
    assert few.tokens.prompt_tokens == 1
    assert rows.teacher is not None
    assert np.array_equal(few.teacher, rows.teacher[taken])
    assert rows.spread(60) is rows


def test_a_teacher_is_true_to_itself() -> None:
    rows = held_out(teacher=tiny_encoder(seed=4))
    scores = Fidelity().score(subject(tiny_encoder(seed=4)), rows, Path())
    expected = {"fidelity.cosine": 1.0, "fidelity.recall_at_10": 1.0, "fidelity.spearman": 1.0}
    assert scores == pytest.approx(expected, abs=1e-6)


def test_fidelity_compares_the_same_rows_in_both_spaces() -> None:
    rows, encoder = held_out(), tiny_encoder(seed=1)
    mine = np.stack([by_hand(encoder, text) for text in SENTENCES])
    scores = Fidelity().score(subject(encoder), rows, Path())
    assert scores == pytest.approx(
        {
            "fidelity.cosine": np.mean([a @ b for a, b in zip(mine, rows.teacher, strict=True)]),
            "fidelity.recall_at_10": neighbour_recall(mine, rows.teacher, 10),
            "fidelity.spearman": pair_spearman(mine, rows.teacher),
        },
        abs=1e-4,
    )
    assert scores["fidelity.cosine"] < 0.9


def test_recall_among_fewer_rows_than_neighbours_says_nothing() -> None:
    one = subject(tiny_encoder(seed=1))
    assert "fidelity.recall_at_10" not in Fidelity().score(one, held_out(rows=11), Path())
    assert "fidelity.recall_at_10" in Fidelity().score(one, held_out(rows=12), Path())


def test_fidelity_of_another_width_has_no_cosine() -> None:
    scores = Fidelity().score(subject(tiny_encoder(width=16)), held_out(), Path())
    assert sorted(scores) == ["fidelity.recall_at_10", "fidelity.spearman"]


def test_fidelity_reads_at_most_max_rows() -> None:
    rows, one = held_out(), subject(tiny_encoder(seed=1))
    whole = Fidelity().score(one, rows, Path())
    some = Fidelity(max_rows=20).score(one, rows, Path())
    assert some == Fidelity().score(one, rows.spread(20), Path())
    assert some != whole
    assert Fidelity(max_rows=60).score(one, rows, Path()) == whole


def test_fidelity_of_too_few_rows() -> None:
    with pytest.raises(ArtifactError) as caught:
        Fidelity().score(subject(), held_out(2), Path())
    assert str(caught.value) == (
        "fidelity needs at least 3 held-out rows, the corpus has 2 and max_rows is 5000:"
        " raise 'validation' of the corpus, or max_rows"
    )


def test_tasks_name_their_main_metric_and_their_files() -> None:
    assert Fidelity().main in Fidelity().score(subject(), held_out(), Path())
    assert Fidelity().files() == []
    assert Similarity(file="a.tsv").main == "similarity.spearman"
    assert Similarity(file="a.tsv", name="sts").main == "sts.spearman"
    assert Similarity(file="a.tsv").files() == ["a.tsv"]


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "parquet"])
def test_similarity_correlates_cosines_with_scores(suffix: str, tmp_path: Path) -> None:
    write_pairs(tmp_path / f"pairs.{suffix}")
    encoder = tiny_encoder()
    task = Similarity(file=f"pairs.{suffix}", name="sts")
    scores = task.score(subject(encoder), held_out(3), tmp_path)
    cosines = [float(by_hand(encoder, a) @ by_hand(encoder, b)) for a, b, _ in PAIRS]
    gold = [score for _, _, score in PAIRS]
    assert scores == pytest.approx(
        {
            "sts.spearman": scipy.stats.spearmanr(cosines, gold).statistic,
            "sts.pearson": scipy.stats.pearsonr(cosines, gold).statistic,
        },
        abs=1e-4,
    )


def test_similarity_reads_the_columns_that_are_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.tsv")
    expected = Similarity(file="pairs.tsv").score(subject(), held_out(3), tmp_path)
    text = (tmp_path / "pairs.tsv").read_text()
    (tmp_path / "other.tsv").write_text(text.replace("sentence1\tsentence2\tscore", "a\tb\tgold"))
    task = Similarity(file="other.tsv", columns=("a", "b"), score_column="gold")
    assert task.score(subject(), held_out(3), tmp_path) == expected


@pytest.mark.parametrize(("cell", "shown"), [("much", "'much'"), ("", "None")])
def test_a_score_that_is_no_number_is_named(cell: str, shown: str, tmp_path: Path) -> None:
    lines = ["sentence1\tsentence2\tscore", "A dog.\tA cat.\t2.5", f"A fox.\tA bird.\t{cell}"]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ArtifactError) as caught:
        Similarity(file="pairs.tsv").score(subject(), held_out(3), tmp_path)
    assert str(caught.value) == (
        f"pairs.tsv: pair 2: 'score' is {shown}, expected a number: mend it,"
        " or choose another score_column"
    )


def test_a_missing_file_or_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gone\.tsv does not exist"):
        Similarity(file="gone.tsv").score(subject(), held_out(3), tmp_path)
    write_pairs(tmp_path / "pairs.tsv")
    with pytest.raises(ArtifactError, match="no column 'scores': did you mean 'score'"):
        Similarity(file="pairs.tsv", score_column="scores").score(subject(), held_out(3), tmp_path)
