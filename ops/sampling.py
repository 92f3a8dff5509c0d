"""Choosing tokens from logits: the torch reference, which is also the CPU path. Knows rows, not slots or
requests.

Order, as in vLLM: bias and bans, penalties, temperature, top-k, top-p, min-p; all in float32. A row draws one
uniform number from a hash of (seed, position) and inverts the cumulative distribution of the surviving
tokens in vocabulary order, so that a token depends on nothing else in the batch. The Triton kernel is in
sample_kernel.py.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PROMPT_SEEN = 1 << 14
"""Bit of a history entry: the token stands in the prompt. The bits below count it in the output,
saturating."""
MAX_COUNT = PROMPT_SEEN - 1

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_BLOCK = 512
_GROUP = 16


class Column(enum.IntEnum):
    """Columns of the table of sampling settings, [num_slots, len(Column)] int32; some hold float32 bits."""

    TEMPERATURE = 0
    """float32; 0 is greedy."""
    TOP_P = 1
    """float32; 1 is off."""
    MIN_P = 2
    """float32; 0 is off."""
    REPETITION = 3
    """float32; 1 is off."""
    PRESENCE = 4
    """float32; 0 is off."""
    FREQUENCY = 5
    """float32; 0 is off."""
    TOP_K = 6
    """In [1, vocab_size]; vocab_size is off."""
    HISTORY = 7
    """The slot's row in the history; -1 without penalties."""
    NUM_BIASES = 8
    SEED_LOW = 9
    SEED_HIGH = 10


class Filters(NamedTuple):
    """rows: [F] int64, the rows of the batch that top_k [F] int64 (vocab_size: off) and top_p [F] are for.

    min_p: [R] for all rows, 0 where off; None if it is off everywhere.
    """

    rows: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor | None


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """One number in (0, 1) with 24 random bits per row, float32, from seeds [R] int64 and positions [R].

    Zero becomes 2**-25: it would choose the first token of any probability, however small. Two rounds of
    the splitmix64 finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
    """
    bits = _mix(_mix(seeds) + positions.to(torch.int64) * _GOLDEN)
    return _shift_right(bits, 40).to(torch.float32).clamp(min=0.5) * 2.0**-24


def _mix(z: Tensor) -> Tensor:
    z = z + _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 stands in for uint64, whose arithmetic torch lacks."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def apply_bias(
    logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor, until: Tensor, positions: Tensor
) -> None:
    """Add to logits [R, V] float32, in place, the entries whose `until` lies behind the row's position.

    rows: [N] int64, rows of logits.   tokens, values, until: [N, W], entries of each; a ban has the value
    -inf.
    positions: [N] int32.
    """
    addends = torch.where(positions[:, None] < until, values, 0.0)
    flat = rows[:, None] * logits.shape[1] + tokens
    logits.view(-1).scatter_add_(0, flat.view(-1), addends.view(-1))


def apply_penalties(
    logits: Tensor,
    rows: Tensor,
    history: Tensor,
    history_rows: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> None:
    """Push down, in place, what was said before: repetition over prompt and output, the others over output
    only.

    logits: [R, V] float32.   rows: [N] int64, rows of logits.   history: [H, V] int16, see PROMPT_SEEN.
    history_rows: [N].   repetition, presence, frequency: [N] float32.
    """
    seen = history.index_select(0, history_rows)
    row, token = seen.nonzero(as_tuple=True)
    count = seen[row, token] & MAX_COUNT
    where = (rows[row], token)
    value = logits[where]
    factor = repetition[row]
    value = torch.where(value > 0, value / factor, value * factor)
    value -= frequency[row] * count
    value -= presence[row] * (count > 0)
    logits[where] = value


def count_tokens(history: Tensor, history_rows: Tensor, tokens: Tensor) -> None:
    """Enter sampled tokens [N] into the history; negative ones are no tokens."""
    where = (history_rows, tokens.clamp(min=0).to(torch.int64))
    entry = history[where]
    history[where] = entry + ((tokens >= 0) & (entry & MAX_COUNT < MAX_COUNT)).to(history.dtype)


def choose_greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row of logits [R, V], [R] int64; -1 if it is not finite."""
    tokens = logits.argmax(-1)
    best = logits.gather(1, tokens[:, None]).squeeze(1)
    return torch.where(best.isfinite(), tokens, -1)


def choose(logits: Tensor, uniforms: Tensor, temperature: Tensor, filters: Filters | None = None) -> Tensor:
    """Draw a token for each row of logits [R, V] float32, [R] int64; -1 where the largest logit is not
    finite.

    uniforms: [R] in (0, 1).   temperature: [R] > 0.
    """
    num_rows, vocab_size = logits.shape
    largest = logits.amax(-1, keepdim=True)
    padded = logits.new_empty(num_rows, -(-vocab_size // _BLOCK) * _BLOCK)
    padded[:, vocab_size:] = 0
    weights = padded[:, :vocab_size]
    torch.sub(logits, largest, out=weights)
    weights.div_(temperature[:, None]).exp_()
    if filters is not None and len(filters.rows):
        rows = filters.rows
        part, masses = logits, padded
        if len(rows) < num_rows:
            part, masses = logits.index_select(0, rows), padded.index_select(0, rows)
        thresholds = filter_thresholds(
            part, masses, largest[rows, 0], temperature[rows], filters.top_k, filters.top_p
        )
        masses[:, :vocab_size].masked_fill_(part < thresholds[:, None], 0)
        if len(rows) < num_rows:
            padded.index_copy_(0, rows, masses)
    if filters is not None and filters.min_p is not None:
        weights.masked_fill_(weights < filters.min_p[:, None], 0)
    tokens = _invert(padded, uniforms)
    return torch.where(largest.squeeze(1).isfinite(), tokens, -1)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The index at which each row's running sum passes uniforms [R] times its total; weights [R, n * _BLOCK].

    First the block, then the place in it: quicker, and more exact than one long float32 sum.
    """
    num_rows = weights.shape[0]
    blocks = weights.view(num_rows, -1, _BLOCK)
    ends = blocks.sum(-1).cumsum(-1)
    target = uniforms[:, None] * ends[:, -1:]
    block = _first_above(ends, target)
    starts = torch.nn.functional.pad(ends, (1, 0)).gather(1, block)
    inner = blocks[torch.arange(num_rows, device=weights.device), block.squeeze(1)].cumsum(-1)
    return (block * _BLOCK + _first_above(inner, target - starts)).squeeze(1)


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """Index [R, 1] of the first running sum above target [R, 1]; rounding may put target past the total,
    hence the
    bound: the last index at which the sum still grew."""
    return torch.minimum((sums <= target).sum(-1, keepdim=True), (sums < sums[:, -1:]).sum(-1, keepdim=True))


def filter_thresholds(
    logits: Tensor, weights: Tensor, largest: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
) -> Tensor:
    """The smallest logit that top-k, then top-p let pass, [R] float32; every logit equal to it passes.

    Top-k keeps the k largest. Of those, top-p keeps each token above which lies less than the mass p, that is
    the smallest set whose mass reaches p.
    logits: [R, V] float32.   weights: [R, n * _BLOCK >= V], exp((logits - largest) / temperature), then
    zeros.
    largest, temperature, top_p: [R] float32.   top_k: [R] int64 in [1, V]; V is off.

    Vocabularies are long and what survives is short, so a row is first seen through the maxima of groups of
    tokens. Each of the k groups with the largest maxima holds a logit no less than the last of these maxima,
    so the k largest logits are no less either; and where maxima add up to the mass p, top-p keeps nothing
    smaller. Only the groups that reach this bound are sorted. Rows too flat for a bound are sorted whole.
    """
    vocab_size = logits.shape[1]
    num_groups = vocab_size // _GROUP
    total = weights.view(len(logits), -1, _BLOCK).sum(-1).cumsum(-1)[:, -1]
    by_count = top_k < vocab_size
    row = _FilteredRows(largest, temperature, top_k, top_p, total, by_count)
    if num_groups <= 1:
        return _sorted_thresholds(logits, row)
    grouped = logits[:, : num_groups * _GROUP].view(-1, _GROUP, num_groups)
    maxima = grouped.amax(1)
    ordered = _sort_descending(maxima)
    mass = ((ordered - largest[:, None]) / temperature[:, None]).exp_().cumsum(-1)
    last = torch.where(by_count, top_k - 1, (mass < (top_p * total)[:, None]).sum(-1))
    bound = ordered.gather(1, last.clamp(max=num_groups - 1)[:, None])
    reached = maxima >= bound
    bounded = (last < num_groups) & (2 * reached.sum(-1) < num_groups)
    thresholds = torch.empty_like(largest)
    narrow, flat = bounded.nonzero().squeeze(1), (~bounded).nonzero().squeeze(1)
    if len(narrow):
        candidates = torch.cat(
            [
                _gather_groups(grouped, reached, narrow),
                logits[narrow, num_groups * _GROUP :],
            ],
            1,
        )
        found = _sorted_thresholds(candidates, row.select(narrow))
        thresholds[narrow] = torch.maximum(found, bound[narrow, 0])
    if len(flat):
        thresholds[flat] = _sorted_thresholds(logits.index_select(0, flat), row.select(flat))
    return thresholds


class _FilteredRows(NamedTuple):
    """What `_sorted_thresholds` needs of each row, [R]."""

    largest: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    total: Tensor
    by_count: Tensor

    def select(self, rows: Tensor) -> _FilteredRows:
        return _FilteredRows(*(column[rows] for column in self))


def _gather_groups(grouped: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
    """Logits of the wanted groups of N rows side by side, [N, width * _GROUP], filled up with -inf.

    grouped: [R, _GROUP, G].   wanted: [R, G] bool.   rows: [N] int64.
    """
    wanted = wanted[rows]
    place = wanted.cumsum(-1)
    row, group = wanted.nonzero(as_tuple=True)
    width = max(1, int(place[:, -1].max()))
    gathered = grouped.new_full((len(rows), width, _GROUP), -torch.inf)
    gathered[row, place[row, group] - 1] = grouped[rows[row], :, group]
    return gathered.flatten(1)


def _sort_descending(values: Tensor) -> Tensor:
    """Rows sorted, NaN first. On the CPU numpy sorts, with vector instructions: 2.6 ms for 16 x 49152,
    torch 45."""
    if values.is_cuda:
        return values.sort(-1, descending=True).values
    return torch.from_numpy(np.sort(values.numpy(), -1)).flip(-1)


def _sorted_thresholds(logits: Tensor, rows: _FilteredRows) -> Tensor:
    """`filter_thresholds` for logits [R, C] among which are all that may survive."""
    largest, temperature, top_k, top_p, total, by_count = (column[:, None] for column in rows)
    ordered = _sort_descending(logits)
    kth = ordered.gather(1, (top_k - 1).clamp(max=ordered.shape[1] - 1))
    mass = ((ordered - largest) / temperature).exp_().cumsum(-1)
    num_left = (ordered >= kth).sum(-1, keepdim=True).clamp(min=1)
    total = torch.where(by_count, mass.gather(1, num_left - 1), total)
    # A token stays if the mass before it is below p, so one more stays than there are sums below p.
    num_kept = torch.minimum((mass < top_p * total).sum(-1, keepdim=True) + 1, num_left)
    return torch.where(top_p < 1, ordered.gather(1, num_kept - 1), kth).squeeze(1)


def log_probabilities(logits: Tensor, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of tokens [R] under the softmax of logits [R, V]: log-probability [R] float32 and rank [R]
    int64 (1 for the likeliest; equals share one), and the num_top likeliest, [R, num_top] float32 and
    int64, best first."""
    logits = logits.to(torch.float32)
    normaliser = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(1, tokens.clamp(min=0).to(torch.int64)[:, None])
    ranks = (logits > chosen).sum(-1) + 1
    top, top_tokens = logits.topk(num_top)
    return (chosen - normaliser).squeeze(1), ranks, top - normaliser, top_tokens
