"""Which layer of the student learns from which layer of the teacher.

Legend: B rows, T places, N tokens, D width, S layers of the student, L layers of the teacher. Layer
0 is the output of the embeddings, layer 1 that of the first block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdpipe.errors import UsageError
from kdpipe.losses.hidden import hidden_mse
from kdpipe.losses.reduce import Reduction
from kdpipe.progress import counted


def uniform(teacher_layers: int, student_layers: int) -> dict[int, int]:
    """Student layer -> teacher layer for any depths, the last to the last, embeddings left out.

    Each step goes up by what remains over the steps that remain, rounded up: 12 and 4 layers give
    3, 6, 9, 12; 12 and 5 give 3, 6, 8, 10, 12; 6 and 4 give 2, 4, 5, 6. A student that is deeper
    than its teacher repeats the last layer.
    """
    _check_depths(teacher_layers, student_layers)
    layers, at = {}, 0
    for layer in range(1, student_layers + 1):
        at += -((at - teacher_layers) // (student_layers - layer + 1))
        layers[layer] = at
    return layers


def tinybert(teacher_layers: int, student_layers: int) -> dict[int, int]:
    """Student layer -> teacher layer in steps of teacher / student, embeddings to embeddings.

    TinyBERT (arXiv 1909.10351), section 4.1, for hidden states; for attention leave out layer 0.
    Raises UsageError where the depths do not divide.
    """
    _check_depths(teacher_layers, student_layers)
    if teacher_layers % student_layers:
        raise UsageError(
            f"a teacher of {counted(teacher_layers, 'layer')} does not divide into {student_layers}"
            " equal steps: use the uniform map"
        )
    step = teacher_layers // student_layers
    return {layer: layer * step for layer in range(student_layers + 1)}


def emd(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Every layer of the student learns from every layer of the teacher, as much as they fit.

    BERT-EMD (arXiv 2010.06133): the earth mover's distance between S and L layers of equal weight,
    where moving costs `hidden_mse`, of which the other arguments are. Layers are `[B, T, D]` or
    `[N, D]`, the student's projected to the teacher's width. What goes where is found on the CPU,
    without a gradient, so this loss alone waits for the device; the paper's change of the layers'
    weights is left out. Raises UsageError where scipy is not installed.
    """
    if not student or not teacher:
        raise UsageError("the earth mover's distance needs a layer on either side: name some")
    rows = [
        [
            hidden_mse(mine, theirs, mask=mask, lengths=lengths, reduction=reduction)
            for theirs in teacher
        ]
        for mine in student
    ]
    costs = torch.stack([torch.stack(row) for row in rows])
    flow: Tensor = transport(costs.detach())
    return (flow * costs).sum()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def transport(costs: Tensor) -> Tensor:
    """The cheapest flow `[S, L]` for costs `[S, L]`; rows sum to 1 / S and columns to 1 / L.

    Costs that are not finite give an even flow: they are for who reads the loss to refuse.
    """
    try:
        from scipy.optimize import linprog
    except ImportError as error:
        raise UsageError(
            "matching layers by earth mover's distance needs scipy: pip install 'kdpipe[emd]'"
        ) from error
    mine, theirs = costs.shape
    prices = costs.double().cpu().numpy()
    if not np.isfinite(prices).all():
        return torch.full_like(costs, 1.0 / (mine * theirs))
    rows = np.kron(np.eye(mine), np.ones((1, theirs)))
    columns = np.kron(np.ones((1, mine)), np.eye(theirs))
    sums = np.repeat([1.0 / mine, 1.0 / theirs], [mine, theirs])
    prices = prices / max(prices.max(), np.finfo(prices.dtype).tiny)  # the solver has tolerances
    found = linprog(prices.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=sums)
    assert found.success, found.message
    return torch.from_numpy(found.x).reshape(mine, theirs).to(costs)


def _check_depths(teacher_layers: int, student_layers: int) -> None:
    if teacher_layers < 1 or student_layers < 1:
        raise UsageError(
            f"layers of a teacher of {teacher_layers} and of a student of {student_layers} cannot"
            " be matched: both need at least 1"
        )
