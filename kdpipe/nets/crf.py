"""Linear-chain CRF: a score for every sequence of labels, hence one best and their probabilities.

Legend: B rows, T words of the longest row, K labels. A sequence of labels scores the start of its
first, the emissions of all, the transitions between neighbours and the end of its last label; its
probability is the softmax of that over all sequences (Lafferty and others, 2001).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Reduction = Literal["token", "sum", "none"]
FILE = "crf.safetensors"
"""Where a model folder keeps one."""


class CRF(nn.Module):
    """Scores of K labels next to each other; emissions come from a net and its head.

    Everywhere `emissions` are `[B, T, K]` and `mask` is `[B, T]`, True at words, each row from its
    left on; what stands at padded places changes nothing. It computes in the type of its
    parameters, also where emissions come in a shorter one.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.empty(labels).uniform_(-0.1, 0.1))
        """[K]: of a row that begins with the label."""
        self.end = nn.Parameter(torch.empty(labels).uniform_(-0.1, 0.1))
        """[K]: of a row that ends with the label."""
        self.transitions = nn.Parameter(torch.empty(labels, labels).uniform_(-0.1, 0.1))
        """[K, K]: of the label of the column right after the label of the row."""

    def log_likelihood(
        self, emissions: Tensor, tags: Tensor, mask: Tensor, reduction: Reduction = "token"
    ) -> Tensor:
        """Log-probability of `tags [B, T]`; its negative is the loss.

        A tag below 0 is not known: what counts is the probability of all sequences that have the
        known ones (Tsuboi and others, 2008), 1 where none is known.

        `token`: a scalar, the sum over rows by the number of known tags, so that a weight beside it
        means what it means beside a cross-entropy of words. `sum`: a scalar, the sum over rows,
        which is what NLP Architect trains on. `none`: [B]; 0 for a row without words.
        """
        emissions, known = self._clean(emissions, mask), (tags >= 0) & mask
        chosen = tags.masked_fill(~known, 0).unsqueeze(-1)
        out = known.unsqueeze(-1).expand(emissions.shape).scatter(2, chosen, value=False)
        both = torch.cat((emissions.masked_fill(out, -torch.inf), emissions))
        some, every = self._log_normaliser(both, mask.repeat(2, 1)).chunk(2)
        values = (some - every).masked_fill(~mask.any(1), 0.0)
        if reduction == "none":
            return values
        return values.sum() if reduction == "sum" else values.sum() / known.sum().clamp(min=1)

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[B, T] int64: the best sequence of labels of each row (Viterbi), 0 at padded places."""
        first, *others = self._clean(emissions, mask).unbind(1)
        best, same = self.start + first, torch.arange(len(self.start), device=mask.device)
        before = []
        for emission, real in zip(others, mask[:, 1:, None].unbind(1), strict=True):
            score, label = (best.unsqueeze(2) + self.transitions).max(1)
            best = torch.where(real, score + emission, best)
            before.append(torch.where(real, label, same))
        path = [(best + self.end).argmax(1, keepdim=True)]
        for label in reversed(before):
            path.append(label.gather(1, path[-1]))
        return torch.cat(path[::-1], 1).masked_fill(~mask, 0)

    def log_marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[B, T, K]: log-probability of each label at each word over all sequences; 0 at padding.

        By forward-backward, with gradients: what a CRF student is to match is a distribution over
        its whole rows, which the softmax of its emissions is not.
        """
        emissions = self._clean(emissions, mask)
        both = self._forward(emissions, mask) + self._backward(emissions, mask)
        return both.log_softmax(-1).masked_fill(~mask.unsqueeze(-1), 0.0)

    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[B, T, K]: probability of each label at each word over all sequences; 0 at padding."""
        return self.log_marginals(emissions, mask).exp() * mask.unsqueeze(-1)

    def _clean(self, emissions: Tensor, mask: Tensor) -> Tensor:
        return emissions.to(self.transitions.dtype).masked_fill(~mask.unsqueeze(-1), 0.0)

    def _log_normaliser(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[B]: log of the summed exponentials of the scores of all sequences."""
        return (self._forward(emissions, mask)[:, -1] + self.end).logsumexp(1)

    def _forward(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[B, T, K]: log-sum of all beginnings that end with a label; carried on over padding."""
        first, *others = emissions.unbind(1)
        sums = [self.start + first]
        for emission, real in zip(others, mask[:, 1:, None].unbind(1), strict=True):
            step = (sums[-1].unsqueeze(2) + self.transitions).logsumexp(1) + emission
            sums.append(torch.where(real, step, sums[-1]))
        return torch.stack(sums, 1)

    def _backward(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[B, T, K]: log-sum of all continuations behind a label; the end at the last word."""
        sums = [self.end.expand(len(mask), -1)]
        after = zip(emissions[:, 1:].unbind(1), mask[:, 1:, None].unbind(1), strict=True)
        for emission, real in reversed([*after]):
            step = (self.transitions + (sums[-1] + emission).unsqueeze(1)).logsumexp(2)
            sums.append(torch.where(real, step, sums[-1]))
        return torch.stack(sums[::-1], 1)
