"""The kernels of `halfstep.solvers.kernels` as tensor operations over all rows at a time, for any device; same arguments, same results.

Which of equally good choices is taken may differ, and kicks run in step: each takes as long as its longest chain of replies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfstep.solvers.kernels import TOLERANCE

BLOCK = 64


def decide_block(
    factor: Tensor, known: Tensor, cost: Tensor, target: Tensor, step: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and residual [N, K, B] and parent [N, K]; updates ``cost``."""
    num_rows, width, num_columns = known.shape
    group = torch.arange(num_rows, device=known.device) // (num_rows // len(factor))
    ahead = torch.arange(4, device=known.device)
    sums, codes, origin = known, torch.zeros_like(known), torch.arange(width, device=known.device).expand(num_rows, width)
    for j in range(num_columns - 1, -1, -1):
        unit = (factor[group, j, j] * step[:, j])[:, None]
        optimum = (target[:, j] / step[:, j])[:, None] - sums[:, :, j] / unit
        first = torch.maximum(low[:, j, None], torch.minimum(torch.floor(optimum) - 1, high[:, j, None] - 3))
        code = first[:, :, None] + ahead
        total = cost[:, :, None] + (unit[:, :, None] * (code - optimum[:, :, None])).square()
        total = torch.where(code > high[:, j, None, None], torch.inf, total)
        best, place = total.flatten(1).topk(width, largest=False)
        cost.copy_(best)
        source = torch.where(best < torch.inf, place // 4, 0)
        chosen = torch.where(best < torch.inf, code.flatten(1).gather(1, place), low[:, j, None])
        missed = chosen * step[:, j, None] - target[:, j, None]
        sums = sums.gather(1, source[:, :, None].expand_as(sums)) + missed[:, :, None] * factor[group, j][:, None]
        codes = codes.gather(1, source[:, :, None].expand_as(codes))
        codes[:, :, j] = chosen
        origin = origin.gather(1, source)
    return codes, codes * step[:, None] - target[:, None], origin


def sweep_rows(gram: Tensor, slope: Tensor, codes: Tensor, step: Tensor, low: Tensor, high: Tensor, num_sweeps: int) -> None:
    """Updates ``codes`` and ``slope``, a block of columns at a time."""
    shape = (len(gram), -1, gram.shape[1])
    slope, codes, step, low, high = (rows.view(shape) for rows in (slope, codes, step, low, high))
    per_step = _per_step(gram.diagonal(dim1=1, dim2=2)[:, None] * step)
    for _ in range(num_sweeps):
        before = codes.clone()
        for first in range(0, gram.shape[1], BLOCK):
            block = slice(first, first + BLOCK)
            near, changes = slope[:, :, block].clone(), torch.zeros_like(slope[:, :, block])
            for place in range(near.shape[2]):
                j = first + place
                move = torch.floor(near[:, :, place] * per_step[:, :, j] + 0.5)
                move = torch.clamp(move, low[:, :, j] - codes[:, :, j], high[:, :, j] - codes[:, :, j])
                codes[:, :, j] += move
                changes[:, :, place] = move * step[:, :, j]
                near += changes[:, :, place, None] * gram[:, None, j, block]
            slope += changes @ gram[:, block]
        if torch.equal(before, codes):
            break


def kick_rows(gram: Tensor, slope: Tensor, codes: Tensor, step: Tensor, low: Tensor, high: Tensor, kicks: Tensor, num_replies: int) -> None:
    """Updates ``codes`` and ``slope``."""
    num_columns = gram.shape[1]
    first_line = torch.arange(len(codes), device=codes.device) // (len(codes) // len(gram)) * num_columns
    lines = gram.flatten(0, 1)
    curvature = gram.diagonal(dim1=1, dim2=2).repeat_interleave(len(codes) // len(gram), 0) * step
    per_step, per_square = _per_step(curvature), curvature * step
    for kicked in kicks.T:
        before_slope, before_codes = slope.clone(), codes.clone()
        j = first = (kicked >> 1)[:, None]
        move = 2.0 * (kicked & 1)[:, None] - 1
        room = (low.gather(1, j) - codes.gather(1, j), high.gather(1, j) - codes.gather(1, j))
        move = torch.where((move < room[0]) | (move > room[1]), -move, move)
        move = torch.where((move < room[0]) | (move > room[1]), 0, move)
        change = per_square.gather(1, j) * move * (move - 2 * slope.gather(1, j) * per_step.gather(1, j))
        for reply in range(num_replies + 1):
            codes.scatter_add_(1, j, move)
            slope += move * step.gather(1, j) * lines[first_line + j[:, 0]]
            if reply < num_replies:
                x = slope * per_step
                best = torch.clamp(torch.floor(x + 0.5), low - codes, high - codes)
                gain = (per_square * best * (best - 2 * x)).scatter(1, first, 0)
                least, j = gain.min(1, keepdim=True)
                goes_on = (move != 0) & (least < 0)
                move = torch.where(goes_on, best.gather(1, j), 0)
                change = change + torch.where(goes_on, least, 0)
        stays = change < -float(TOLERANCE) * per_square.gather(1, first)
        slope.copy_(torch.where(stays, slope, before_slope))
        codes.copy_(torch.where(stays, codes, before_codes))


def _per_step(curvature: Tensor) -> Tensor:
    return torch.where(curvature > 0, -1 / curvature, 0)
