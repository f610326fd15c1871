"""The loops that must be compiled: plain functions of NumPy arrays, which `halfstep.solvers.compiled` hands to Numba.

All arrays are float32 and contiguous, [N, d] with N = G R rows, row i belonging to group i // R. Each function works on rows begin to
end - 1 alone, so threads may share out a call and the result does not depend on how. Symbols as in `halfstep.solvers.closest`:

    x_j = -g_j / (s_j H_jj)      the best real number of steps for entry j, all others held; g = (v - T) H, the slope
    delta = clip(round(x_j))     within the limits: the best whole number of steps; it changes the error by s_j^2 H_jj delta (delta - 2 x_j)
"""

# ruff: noqa: C901, PLR0912, PLR0913, PLR0915 -- one compiled loop each: compilation time and speed decide how it is cut

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

TOLERANCE = np.float32(1e-5)  # of what moving the kicked entry alone costs: less is lost in float32


def decide_block(
    begin: int,
    end: int,
    num_rows: int,
    factor: Floats,
    known: Floats,
    cost: Floats,
    target: Floats,
    step: Floats,
    low: Floats,
    high: Floats,
    codes: Floats,
    residual: Floats,
    parent: Integers,
) -> None:
    """Choose the entries of one block of B columns, last column first, keeping for each row the K cheapest of all choices so far.

    factor: [G, B, B], this block of the Cholesky factor. known: [N, K, B], what the columns decided before add to these. cost: [N, K],
    ascending, infinite where there is no choice yet; updated. Writes codes and residual v - T of the block, [N, K, B], and parent [N, K]:
    which of the K choices at the block's start each one continues. Each choice is continued by the four codes nearest to its optimum.
    """
    num_columns, width = target.shape[1], cost.shape[1]
    sums = np.zeros((2, width, num_columns), np.float32)  # of every choice, before and after it is continued
    chosen = np.zeros((num_columns, width), np.float32)
    continued = np.zeros((num_columns, width), np.int64)
    best_cost = np.zeros(width, np.float32)
    for row in range(begin, end):
        group, old = row // num_rows, 0
        for k in range(width):
            for j in range(num_columns):
                sums[0, k, j] = known[row, k, j]
        for j in range(num_columns - 1, -1, -1):
            best_code, best_from = chosen[j], continued[j]
            highest = high[row, j]
            unit = factor[group, j, j] * step[row, j]
            centre = target[row, j] / step[row, j]
            count = 0
            for k in range(width):
                if not cost[row, k] < np.inf:
                    break
                optimum = centre - sums[old, k, j] / unit
                code = max(low[row, j], min(np.floor(optimum) - np.float32(1), highest - np.float32(3)))
                for _ in range(4):
                    off = unit * (code - optimum)
                    total = cost[row, k] + off * off
                    if code <= highest and (count < width or total < best_cost[width - 1]):
                        slot = min(count, width - 1)
                        count = min(count + 1, width)
                        while slot > 0 and total < best_cost[slot - 1]:
                            best_cost[slot] = best_cost[slot - 1]
                            best_code[slot] = best_code[slot - 1]
                            best_from[slot] = best_from[slot - 1]
                            slot -= 1
                        best_cost[slot] = total
                        best_code[slot] = code
                        best_from[slot] = k
                    code += np.float32(1)
            for k in range(width):
                if k >= count:
                    best_cost[k], best_code[k], best_from[k] = np.inf, low[row, j], 0
                cost[row, k] = best_cost[k]
                missed = best_code[k] * step[row, j] - target[row, j]
                source, sink = sums[old, best_from[k]], sums[1 - old, k]
                for i in range(j):
                    sink[i] = source[i] + missed * factor[group, j, i]
            old = 1 - old
        for k in range(width):
            choice = k
            for j in range(num_columns):
                codes[row, k, j] = chosen[j, choice]
                residual[row, k, j] = chosen[j, choice] * step[row, j] - target[row, j]
                choice = continued[j, choice]
            parent[row, k] = choice


def sweep_rows(
    begin: int,
    end: int,
    num_rows: int,
    gram: Floats,
    slope: Floats,
    codes: Floats,
    step: Floats,
    low: Floats,
    high: Floats,
    num_sweeps: int,
) -> None:
    """Move every entry in turn to its best code until none moves in a whole sweep; codes and slope are updated.

    A few rows are taken together, so that a row of the Gram matrix read from memory serves all of them.
    """
    num_columns, num_together = gram.shape[1], 8
    half, zero = np.float32(0.5), np.float32(0)
    per_step = np.zeros((num_together, num_columns), np.float32)
    groups = np.zeros(num_together, np.int64)
    for first in range(begin, end, num_together):
        count = min(num_together, end - first)
        for place in range(count):
            groups[place] = (first + place) // num_rows
            for j in range(num_columns):
                curvature = step[first + place, j] * gram[groups[place], j, j]
                per_step[place, j] = np.float32(-1) / curvature if curvature > zero else zero
        for _ in range(num_sweeps):
            num_moves = 0
            for j in range(num_columns):
                for place in range(count):
                    row = first + place
                    move = np.floor(slope[row, j] * per_step[place, j] + half)
                    if move == zero:
                        continue
                    here = codes[row, j]
                    move = max(low[row, j] - here, min(move, high[row, j] - here))
                    if move == zero:
                        continue
                    codes[row, j] = here + move
                    change, products, sink = move * step[row, j], gram[groups[place], j], slope[row]
                    for i in range(num_columns):
                        sink[i] += change * products[i]
                    num_moves += 1
            if num_moves == 0:
                break


def kick_rows(
    begin: int,
    end: int,
    num_rows: int,
    gram: Floats,
    slope: Floats,
    codes: Floats,
    step: Floats,
    low: Floats,
    high: Floats,
    kicks: Integers,
    num_replies: int,
) -> None:
    """Iterated local search: one entry is moved by one step against its gain, and the best replies to that follow, each a move of the entry
    that gains most, until nothing gains or there were ``num_replies``. All of it stays if the error became smaller, else none.

    kicks: [N, num_kicks], 2 j + (1 up, 0 down); the other way where a limit is in the way. A reply never moves the entry that was kicked.
    One pass over d entries for the kick and each reply; codes and slope are updated.
    """
    num_columns, num_kicks = gram.shape[1], kicks.shape[1]
    half, zero = np.float32(0.5), np.float32(0)
    per_step = np.zeros(num_columns, np.float32)
    per_square = np.zeros(num_columns, np.float32)
    up = np.zeros(num_columns, np.float32)
    down = np.zeros(num_columns, np.float32)
    g = np.zeros(num_columns, np.float32)
    saved = np.zeros(num_columns, np.float32)
    gain = np.zeros(2 * num_columns + 64, np.float32)  # of each entry, then the smaller of every two, of every four, ...
    starts = np.zeros(64, np.int64)
    sizes = np.zeros(64, np.int64)
    moved = np.zeros(num_replies + 1, np.int64)
    moves = np.zeros(num_replies + 1, np.float32)
    for row in range(begin, end):
        group = row // num_rows
        for j in range(num_columns):
            curvature = step[row, j] * gram[group, j, j]
            per_step[j] = np.float32(-1) / curvature if curvature > zero else zero
            per_square[j] = curvature * step[row, j]
            up[j] = high[row, j] - codes[row, j]
            down[j] = low[row, j] - codes[row, j]
            g[j] = slope[row, j]
            saved[j] = slope[row, j]
        for kick in range(num_kicks):
            j = kicks[row, kick] >> 1
            move = np.float32(2 * (kicks[row, kick] & 1) - 1)
            if move > up[j] or move < down[j]:
                move = -move
                if move > up[j] or move < down[j]:
                    continue
            x = g[j] * per_step[j]
            change = per_square[j] * move * (move - (x + x))
            num_moves = 0
            while True:
                moved[num_moves] = j
                moves[num_moves] = move
                num_moves += 1
                up[j] -= move
                down[j] -= move
                weight, products = move * step[row, j], gram[group, j]
                for i in range(num_columns):
                    g[i] += weight * products[i]
                if num_moves > num_replies:
                    break
                for i in range(num_columns):
                    x = g[i] * per_step[i]
                    best = max(down[i], min(np.floor(x + half), up[i]))
                    gain[i] = per_square[i] * best * (best - (x + x))
                gain[moved[0]] = zero
                level, start, size = 0, 0, num_columns
                while size > 1:  # pairwise, because compilers turn that into vector instructions, and a running minimum not
                    starts[level] = start
                    sizes[level] = size
                    level += 1
                    fold, over = (size + 1) >> 1, start + size
                    for i in range(size - fold):
                        gain[over + i] = min(gain[start + i], gain[start + fold + i])
                    if 2 * fold > size:
                        gain[over + fold - 1] = gain[start + fold - 1]
                    start, size = over, fold
                least = gain[start]
                if not least < zero:
                    break
                j = 0
                for back in range(level - 1, -1, -1):  # down again to where the least came from
                    if gain[starts[back] + j] != least:
                        j += (sizes[back] + 1) >> 1
                x = g[j] * per_step[j]
                move = max(down[j], min(np.floor(x + half), up[j]))
                change += least
            if change < -TOLERANCE * per_square[moved[0]]:
                for i in range(num_columns):
                    saved[i] = g[i]
            else:
                for i in range(num_columns):
                    g[i] = saved[i]
                for back in range(num_moves):
                    up[moved[back]] += moves[back]
                    down[moved[back]] += moves[back]
        for j in range(num_columns):
            slope[row, j] = g[j]
            codes[row, j] = high[row, j] - up[j]
