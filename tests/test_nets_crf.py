"""The CRF against enumeration of all sequences of labels, and against the published value."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from kdpipe.nets.crf import CRF

LABELS = 3
LENGTHS = [4, 1, 3, 2]
MASK = torch.arange(4)[None] < torch.tensor(LENGTHS)[:, None]


def crf(labels: int = LABELS, scale: float = 1.0) -> CRF:
    torch.manual_seed(0)
    net = CRF(labels).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * scale)
    return net


def emissions(rows: int = 4, places: int = 4, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(rows, places, LABELS, generator=generator, dtype=torch.float64)


def tags() -> Tensor:
    return torch.randint(LABELS, (4, 4), generator=torch.Generator().manual_seed(2))


def score(net: CRF, row: Tensor, labels: tuple[int, ...]) -> float:
    """Of one sequence of labels for the emissions of one row, by the definition."""
    total = net.start[labels[0]] + net.end[labels[-1]]
    for place, label in enumerate(labels):
        total = total + row[place, label]
        if place:
            total = total + net.transitions[labels[place - 1], label]
    return total.item()


def every(net: CRF, row: Tensor, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence of labels of a row."""
    paths = list(itertools.product(range(LABELS), repeat=length))
    scores = [score(net, row, path) for path in paths]
    norm = math.fsum(math.exp(value) for value in scores)
    return {path: math.exp(value) / norm for path, value in zip(paths, scores, strict=True)}


def test_log_likelihood_is_that_of_enumeration():
    net, given, gold = crf(), emissions(), tags()
    expected = [
        math.log(every(net, given[row], length)[tuple(gold[row, :length].tolist())])
        for row, length in enumerate(LENGTHS)
    ]
    found = net.log_likelihood(given, gold, MASK, "none")
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert net.log_likelihood(given, gold, MASK, "sum").item() == pytest.approx(sum(expected))
    mean = sum(expected) / sum(LENGTHS)
    assert net.log_likelihood(given, gold, MASK).item() == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("scale", [0.2, 0.5, 2.0])
def test_decode_is_the_best_of_enumeration(scale):
    net, given = crf(scale=2.0), emissions(scale=scale)
    expected = torch.zeros(4, 4, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        paths = every(net, given[row], length)
        expected[row, :length] = torch.tensor(max(paths, key=lambda path: paths[path]))
    found = net.decode(given, MASK)
    assert torch.equal(found, expected)
    assert not torch.equal(found, given.argmax(-1) * MASK)  # transitions count


def test_marginals_are_those_of_enumeration():
    net, given = crf(), emissions()
    expected = torch.zeros(4, 4, LABELS, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        for path, probability in every(net, given[row], length).items():
            for place, label in enumerate(path):
                expected[row, place, label] += probability
    torch.testing.assert_close(net.marginals(given, MASK), expected, rtol=0, atol=1e-12)
    logs = net.log_marginals(given, MASK)
    torch.testing.assert_close(logs[MASK].exp(), expected[MASK], rtol=0, atol=1e-12)
    assert torch.count_nonzero(logs[~MASK]) == 0


def test_marginals_are_the_gradient_of_the_log_normaliser():
    net, given, gold = crf(), emissions().requires_grad_(), tags()
    net.log_likelihood(given, gold, MASK, "sum").backward()
    gold_ones = torch.nn.functional.one_hot(gold, LABELS) * MASK[..., None]
    expected = gold_ones - given.grad
    torch.testing.assert_close(net.marginals(given, MASK), expected, rtol=0, atol=1e-12)


def test_the_published_value():
    def gen(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
        index = torch.arange(math.prod(shape), dtype=torch.float64)
        return (2 * scale * torch.sin((index + 1) * (index + seed))).reshape(shape)

    net = CRF(4).double()
    with torch.no_grad():
        net.start.copy_(gen(21, (4,)))
        net.end.copy_(gen(22, (4,)))
        net.transitions.copy_(gen(23, (4, 4)))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    gold = (torch.arange(10) % 4).reshape(2, 5)
    found = net.log_likelihood(gen(9, (2, 5, 4)), gold, mask, "sum")
    assert found.item() == pytest.approx(-18.702218226163, abs=1e-9)


@pytest.mark.parametrize("junk", [0.0, 1e30, math.inf, math.nan])
def test_what_stands_at_padding_changes_nothing(junk):
    net, given, gold = crf(), emissions(), tags()
    more = torch.full((4, 7, LABELS), junk, dtype=torch.float64)
    more[:, :4][MASK] = given[MASK]
    labels = torch.full((4, 7), -100)
    labels[:, :4][MASK] = gold[MASK]
    mask = torch.nn.functional.pad(MASK, (0, 3))
    results = []
    for inputs in ((given, gold, MASK), (more, labels, mask)):
        leaf = inputs[0].clone().requires_grad_()
        value = net.log_likelihood(leaf, *inputs[1:])
        value = value + net.log_marginals(leaf, inputs[2]).square().sum()
        grad, *grads = torch.autograd.grad(value, (leaf, *net.parameters()))
        results.append([value.detach(), grad[:, :4], *grads])
        assert torch.count_nonzero(grad[~inputs[2]]) == 0
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-12)
    assert torch.equal(net.decode(more, mask)[:, :4], net.decode(given, MASK))
    assert torch.equal(net.decode(more, mask)[:, 4:], torch.zeros(4, 3, dtype=torch.long))


def test_a_row_without_words_counts_nothing():
    net, given, gold = crf(), emissions(), tags()
    mask = MASK.clone()
    mask[1] = False
    rows = [0, 2, 3]
    assert net.log_likelihood(given, gold, mask, "none")[1].item() == 0.0
    one = net.log_likelihood(given, gold, mask)
    other = net.log_likelihood(given[rows], gold[rows], MASK[rows])
    assert one.item() == pytest.approx(other.item(), abs=1e-13)
    assert torch.count_nonzero(net.marginals(given, mask)[1]) == 0
    assert net.log_likelihood(given, gold, mask & False).item() == 0.0


def test_gradients_are_the_derivatives():
    net, gold = crf(), tags()
    parameters = tuple(net.parameters())

    def value(given: Tensor, *_: Tensor) -> Tensor:
        return torch.stack(
            (net.log_likelihood(given, gold, MASK), net.marginals(given, MASK).square().sum())
        )

    assert torch.autograd.gradcheck(value, (emissions().requires_grad_(), *parameters))


def test_long_rows_and_large_scores_stay_finite_in_fp32():
    torch.manual_seed(0)
    net = CRF(5)
    given = 200 * torch.randn(3, 300, 5)
    mask = torch.ones(3, 300, dtype=torch.bool)
    best = net.decode(given, mask)
    assert net.log_likelihood(given, best, mask).item() == pytest.approx(0.0, abs=1e-2)
    sums = net.marginals(given, mask).sum(-1)
    torch.testing.assert_close(sums, torch.ones(3, 300), rtol=0, atol=1e-5)


def test_emissions_of_a_shorter_type_are_computed_with_in_that_of_the_parameters():
    net = CRF(LABELS)
    given = emissions().to(torch.bfloat16)
    found = net.log_likelihood(given, tags(), MASK)
    assert found.dtype == torch.float32
    assert torch.equal(found, net.log_likelihood(given.float(), tags(), MASK))
    assert net.marginals(given, MASK).dtype == torch.float32


def test_tags_that_are_not_known_may_be_any():
    net, given, gold = crf(), emissions().requires_grad_(), tags()
    gold[0, 1] = gold[3, 0] = -100
    gold[2, :3] = -1
    expected = []
    for row, length in enumerate(LENGTHS):
        known = {
            place: label for place, label in enumerate(gold[row, :length].tolist()) if label >= 0
        }
        paths = every(net, given[row], length).items()
        fitting = [p for path, p in paths if all(path[at] == known[at] for at in known)]
        expected.append(math.log(math.fsum(fitting)))
    found = net.log_likelihood(given, gold, MASK, "none")
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert found[2].item() == 0.0
    mean = net.log_likelihood(given, gold, MASK)
    assert mean.item() == pytest.approx(sum(expected) / (sum(LENGTHS) - 5), abs=1e-12)
    mean.backward()
    assert given.grad is not None
    assert torch.count_nonzero(given.grad[2]) == 0
    assert torch.count_nonzero(given.grad[0]) > 0
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())

    def value(at: Tensor, *_: Tensor) -> Tensor:
        return net.log_likelihood(at, gold, MASK)

    assert torch.autograd.gradcheck(value, (emissions().requires_grad_(), *net.parameters()))


def test_a_tag_that_is_no_label_is_refused():
    gold = tags()
    gold[0, 1] = LABELS
    with pytest.raises(RuntimeError, match="out of bounds"):
        crf().log_likelihood(emissions(), gold, MASK)


def test_parameters_begin_small_and_train():
    net = CRF(40)
    for parameter in net.parameters():
        assert 0.05 < parameter.abs().max().item() <= 0.1
    torch.manual_seed(3)
    net, given = CRF(LABELS), torch.zeros(4, 4, LABELS)
    gold = (torch.arange(4)[None] + torch.arange(4)[:, None]) % LABELS  # each label has one after
    optimizer = torch.optim.Adam(net.parameters(), lr=0.3)
    mask = torch.ones(4, 4, dtype=torch.bool)
    for _ in range(60):
        optimizer.zero_grad()
        (-net.log_likelihood(given, gold, mask)).backward()
        optimizer.step()
    given[:, 0] = 20.0 * torch.nn.functional.one_hot(gold[:, 0], LABELS)
    assert torch.equal(net.decode(given, mask), gold)
