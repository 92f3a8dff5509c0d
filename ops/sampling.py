"""Choosing tokens from logits: the torch reference, which is also the CPU path.

Knows rows, not slots or requests.

Order, as in vLLM: masks, bias and bans, penalties, temperature, top-k, top-p, min-p; all in float32. What is
left is drawn from by races: runners arrive at random, exponentially distributed times, divided by their
weights, so that each arrives first with a probability in proportion to its weight (the Gumbel trick). Blocks
of tokens race, then groups of the block that won, then tokens of the group. The times are hashes of (seed,
position), so that a token depends on nothing else in the batch. The Triton kernels are sample_kernel.py.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .sampling_threshold import filter_thresholds

PROMPT_SEEN = 1 << 14
"""Bit of a history entry: the token stands in the prompt. The bits below count it in the output,
saturating."""
MAX_COUNT = PROMPT_SEEN - 1

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
GROUP = 64
"""Tokens of a group, and groups of a block."""
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_ADDENDS = np.where(_BITS, 0.0, -np.inf).astype(np.float32)
"""What a byte of a mask adds to 8 logits, [256, 8]: 0 or -inf. Looking up and adding takes a quarter of the
time of filling where a bit is clear."""


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
    MASKED = 11
    """1: the slot's row in the masks says which tokens may be taken; 0: any."""


class Filters(NamedTuple):
    """rows: [F] int64, the rows of the batch that top_k [F] int64 (vocab_size: off) and top_p [F] are for.

    min_p: [R] for all rows, 0 where off; None if it is off everywhere.
    """

    rows: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor | None


def draw_keys(seeds: Tensor, positions: Tensor) -> Tensor:
    """What the random numbers of a draw are hashed from, [R] int64, of seeds [R] int64 and positions [R].

    Two rounds of the splitmix64 finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators).
    """
    return _mix(_mix(seeds) + positions.to(torch.int64) * _GOLDEN)


def arrivals(keys: Tensor, count: int) -> Tensor:
    """When runners 0 to count - 1 of a race arrive if all weigh 1, [R, count] float32 > 0.

    keys: [R] int64. The numbers are the splitmix64 generator's, started at the key, 23 bits of each.
    """
    runners = torch.arange(count, dtype=torch.int64, device=keys.device)
    bits = _shift_right(_mix(keys[:, None] + runners * _GOLDEN), 41)
    return -((bits.to(torch.float32) + 0.5) * 2.0**-23).log_()


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
    """Add entries to logits [R, V] float32, in place, where the row's position is still before their `until`.

    rows: [N] int64, rows of logits.   tokens, values, until: [N, W], entries of each; a ban's value is -inf.
    positions: [N] int32.
    """
    addends = torch.where(positions[:, None] < until, values, 0.0)
    flat = rows[:, None] * logits.shape[1] + tokens
    logits.view(-1).scatter_add_(0, flat.view(-1), addends.view(-1))


def mask_words(vocab_size: int) -> int:
    """int32 words of a mask: token t may be taken if bit t % 32 of word t // 32 is set."""
    return -(-vocab_size // 32)


def apply_masks(logits: Tensor, rows: Tensor, masks: Tensor) -> None:
    """Add -inf, in place, to what the rows' masks leave out; on the CPU.

    logits: [R, V] float32.   rows: [N] int64, rows of logits.   masks: [N, mask_words(V)] int32.
    """
    octets = masks.contiguous().numpy().view(np.uint8)
    addends = torch.from_numpy(_ADDENDS[octets].reshape(len(octets), -1))
    # Row by row: rows chosen by index would be copied out and back.
    for row, addend in zip(rows.tolist(), addends, strict=True):
        logits[row] += addend[: logits.shape[1]]


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
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        tokens = torch.from_numpy(
            logits.numpy().argmax(-1)
        )  # on a CPU, torch's own takes seven times as long
    else:
        tokens = logits.argmax(-1)
    best = logits.gather(1, tokens[:, None]).squeeze(1)
    return torch.where(best.isfinite(), tokens, -1)


def choose(logits: Tensor, keys: Tensor, temperature: Tensor, filters: Filters | None = None) -> Tensor:
    """Draw a token for each row of logits [R, V] float32, [R] int64; -1 where the largest logit is not
    finite.

    keys: [R] int64, see draw_keys.   temperature: [R] > 0.
    """
    num_rows, vocab_size = logits.shape
    largest = logits.amax(-1, keepdim=True)
    padded = logits.new_empty(num_rows, -(-vocab_size // GROUP) * GROUP)
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
            part,
            largest[rows, 0],
            temperature[rows],
            _group_masses(masses).sum(-1),
            filters.top_k,
            filters.top_p,
        )
        masses[:, :vocab_size].masked_fill_(part < thresholds[:, None], 0)
        if len(rows) < num_rows:
            padded.index_copy_(0, rows, masses)
    if filters is not None and filters.min_p is not None:
        weights.masked_fill_(weights < filters.min_p[:, None], 0)
    tokens = _draw(padded, keys)
    return torch.where(largest.squeeze(1).isfinite(), tokens, -1)


def _draw(weights: Tensor, keys: Tensor) -> Tensor:
    """Tokens [R] int64, drawn by weights [R, n * GROUP] with numbers hashed from keys [R] int64.

    Each level has numbers of its own: rounding of the weights, which differs from batch to batch, then only
    matters where two runners arrive together. Of a single number that inverts the cumulative distribution
    of the vocabulary, any of tens of thousands of bounds could be on the other side.
    """
    groups = _group_masses(weights)
    groups = torch.nn.functional.pad(groups, (0, -groups.shape[1] % GROUP)).view(len(groups), -1, GROUP)
    blocks = groups.sum(-1)
    times = arrivals(keys, 2 * GROUP + blocks.shape[1])
    rows = torch.arange(len(weights), device=weights.device)
    block = _first(blocks, times[:, 2 * GROUP :])
    group = block * GROUP + _first(groups[rows, block], times[:, GROUP : 2 * GROUP])
    return group * GROUP + _first(weights.view(len(weights), -1, GROUP)[rows, group], times[:, :GROUP])


def _group_masses(weights: Tensor) -> Tensor:
    """Sums of weights [R, n * GROUP] in each group, [R, n]."""
    return weights.view(len(weights), -1, GROUP).sum(-1)


def _first(speeds: Tensor, times: Tensor) -> Tensor:
    """Who arrives first, [R] int64: each with a probability in proportion to its speed [R, N].

    times: [R, N], when runners of speed 1 would arrive; no speed is no arrival.
    """
    return (speeds / times).argmax(-1)


def log_probabilities(logits: Tensor, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of tokens [R] under the softmax of logits [R, V]: log-probability [R] float32 and rank [R]
    int64 (1 for the likeliest; equals share one), and the num_top likeliest, [R, num_top] float32 and
    int64, best first."""
    logits = logits.to(torch.float32)
    tokens = tokens.clamp(min=0).to(torch.int64)[:, None]
    # log_softmax sums a row in one order however many there are; logsumexp does not.
    logprobs = logits.log_softmax(-1)
    ranks = (logits > logits.gather(1, tokens)).sum(-1) + 1
    _, top_tokens = logits.topk(num_top)
    return logprobs.gather(1, tokens).squeeze(1), ranks, logprobs.gather(1, top_tokens), top_tokens
