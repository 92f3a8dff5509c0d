"""Steps as packed arrays, against a plain reading of what each array means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo.model.plan import PlainRows, SequenceSlice, SlotStart, StepPlan
from octavo.model.sampling_params import SamplingParams
from octavo.model.step_inputs import (
    FROM_DEVICE,
    BlockTableMirror,
    HostBuffer,
    StepArrays,
    StepShape,
    host_memory,
    lay_out,
    unpack,
)

CPU = torch.device("cpu")
NUM_SLOTS, MAX_BLOCKS, BLOCK_SIZE = 4, 6, 4
PADDING_SLOT = NUM_SLOTS
ROOM = MAX_BLOCKS * BLOCK_SIZE


@dataclass
class Sequence:
    """What a slot has had so far."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0


@st.composite
def plans(draw: st.DrawFn) -> list[StepPlan]:
    """Steps in a row: decodes beside chunks, slots that change hands, cached prefixes, blocks taken early."""
    sequences: dict[int, Sequence] = {}
    return [draw_plan(draw, sequences) for _ in range(draw(st.integers(1, 6)))]


def draw_plan(draw: st.DrawFn, sequences: dict[int, Sequence]) -> StepPlan:
    rows, starts = [], []
    for slot in draw(st.lists(st.integers(0, NUM_SLOTS - 1), min_size=1, unique=True)):
        sequence = sequences.get(slot)
        if sequence is None or sequence.length == ROOM or draw(st.integers(0, 4)) == 0:
            sequence = sequences[slot] = Sequence(length=BLOCK_SIZE * draw(st.integers(0, 2)))
            starts.append(SlotStart(slot, SamplingParams(), 0, frozenset(), [], []))
            continues = False
        else:
            continues = draw(st.booleans())
        start = sequence.length
        length = 1 if continues else draw(st.integers(1, ROOM - start))
        sequence.length += length
        missing = max(0, -(-sequence.length // BLOCK_SIZE) - len(sequence.blocks))
        spare = draw(st.integers(0, 1)) if len(sequence.blocks) + missing < MAX_BLOCKS else 0
        new = draw(st.lists(st.integers(1, 99), min_size=missing + spare, max_size=missing + spare))
        sequence.blocks += new
        tokens = None if continues else draw(st.lists(st.integers(0, 9), min_size=length, max_size=length))
        rows.append(SequenceSlice(slot, start, length, tokens, new, continues or draw(st.booleans())))
    rows.sort(key=lambda row: row.length != 1)
    return (
        with_plain_rows(rows, tuple(starts)) if draw(st.booleans()) else StepPlan(tuple(rows), tuple(starts))
    )


def with_plain_rows(rows: list[SequenceSlice], starts: tuple[SlotStart, ...]) -> StepPlan:
    """The same step; all that can be a plain row is one."""
    begun = {start.slot for start in starts}
    plain = [r for r in rows if r.tokens is None and len(r.new_blocks) < 2 and r.slot not in begun]
    grown = [row for row in plain if row.new_blocks]
    made = PlainRows(
        np.array([row.slot for row in plain], np.int32),
        np.array([row.start for row in plain], np.int32),
        [row.slot for row in grown],
        [row.new_blocks[0] for row in grown],
    )
    return StepPlan(tuple(row for row in rows if row not in plain), starts, plain=made)


def expected_arrays(plan: StepPlan, tables: dict[int, list[int]]) -> dict[str, list[int]]:
    """Every array, token by token; `tables` are brought up to date."""
    arrays: dict[str, list[int]] = {name: [] for name in StepArrays._fields}
    for start in plan.starts:
        tables[start.slot] = []
    arrays["chunk_starts"].append(sum(row.length == 1 for row in plan.rows))
    for row in plan.rows:
        table = tables[row.slot]
        for block in row.new_blocks:
            arrays["update_index"].append(row.slot * MAX_BLOCKS + len(table))
            arrays["update_value"].append(block)
            table.append(block)
        for i in range(row.length):
            position = row.start + i
            arrays["positions"].append(position)
            arrays["kv_slots"].append(table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
            arrays["token_ids"].append(FROM_DEVICE if row.tokens is None else row.tokens[i])
        kind = "decode" if row.length == 1 else "chunk"
        arrays[f"{kind}_slots"].append(row.slot)
        arrays[f"{kind}_lens"].append(row.start + row.length)
        if row.length != 1:
            arrays["chunk_starts"].append(len(arrays["positions"]))
        if row.samples:
            arrays["last_tokens"].append(len(arrays["positions"]) - 1)
            arrays["sample_slots"].append(row.slot)
            arrays["sample_positions"].append(row.start + row.length)
    return arrays


PADDING: dict[str, int] = dict.fromkeys(StepArrays._fields, 0) | {
    "kv_slots": -1,
    "decode_slots": PADDING_SLOT,
    "chunk_slots": PADDING_SLOT,
    "sample_slots": PADDING_SLOT,
    "update_index": PADDING_SLOT * MAX_BLOCKS,
}


def buffer(shape: StepShape) -> HostBuffer:
    return HostBuffer(shape, host_memory(shape.num_bytes, CPU))


@given(plans(), st.lists(st.integers(0, 5), min_size=5, max_size=5))
@settings(max_examples=150, deadline=None)
def test_every_array_of_every_step_is_what_the_plan_says(steps: list[StepPlan], padding: list[int]) -> None:
    mirror = BlockTableMirror(NUM_SLOTS, MAX_BLOCKS, BLOCK_SIZE)
    device_tables: NDArray[np.int32] = np.zeros((NUM_SLOTS + 1, MAX_BLOCKS), np.int32)
    tables: dict[int, list[int]] = {}
    for plan in steps:
        layout = lay_out(plan, mirror)
        expected = expected_arrays(plan, tables)
        shape = StepShape(*(have + more for have, more in zip(layout.shape, padding, strict=True)))
        arrays = unpack(buffer(shape).pack(layout, mirror), shape)
        num_tokens = len(expected["token_ids"])
        for name, view in arrays._asdict().items():
            pad = num_tokens if name == "chunk_starts" else PADDING[name]
            values = expected[name]
            assert view.tolist() == values + [pad] * (len(view) - len(values)), name
        # What the device does with the updates leaves it with the tables that the host believes in.
        device_tables.reshape(-1)[arrays.update_index.numpy()] = arrays.update_value.numpy()
        assert np.array_equal(device_tables, mirror.tables)
        for slot, table in tables.items():
            assert device_tables[slot, : len(table)].tolist() == table
        assert not device_tables[PADDING_SLOT].any()
        assert list(layout.host_slots) == expected["sample_slots"]
        assert layout.max_seq_len == max(row.start + row.length for row in plan.rows)


@given(st.tuples(*[st.integers(0, 40)] * 5))
@settings(max_examples=100, deadline=None)
def test_every_field_begins_on_16_bytes_and_none_shares_a_byte(
    lengths: tuple[int, int, int, int, int],
) -> None:
    shape = StepShape(*lengths)
    buffer = torch.zeros(shape.num_bytes, dtype=torch.uint8)
    views = unpack(buffer, shape)
    for name, view in views._asdict().items():
        assert view.storage_offset() * view.itemsize % 16 == 0, name
    for number, view in enumerate(views, 1):
        view.fill_(number)
    for number, view in enumerate(views, 1):
        assert (view == number).all()
    by_name: dict[str, Any] = views._asdict()
    for name, dtype in (
        ("kv_slots", torch.int64),
        ("last_tokens", torch.int64),
        ("decode_slots", torch.int32),
    ):
        assert by_name[name].dtype == dtype
    tokens, decodes, chunks, sampled, updates = shape
    of_tokens, of_samples = (
        {"kv_slots", "token_ids", "positions"},
        {
            "last_tokens",
            "sample_slots",
            "sample_positions",
        },
    )
    for name, view in by_name.items():
        if name in of_tokens:
            wanted = tokens
        elif name in of_samples:
            wanted = sampled
        elif name.startswith("update"):
            wanted = updates
        elif name.startswith("decode"):
            wanted = decodes
        else:
            wanted = chunks + (name == "chunk_starts")
        assert len(view) == wanted, name


def test_a_buffer_is_packed_anew_without_a_trace_of_the_step_before() -> None:
    mirror = BlockTableMirror(NUM_SLOTS, MAX_BLOCKS, BLOCK_SIZE)
    shape = StepShape(8, 4, 4, 4, 4)
    host, fresh = buffer(shape), buffer(shape)
    host.pack(lay_out(StepPlan((SequenceSlice(0, 0, 8, [7] * 8, [3, 4], True),)), mirror), mirror)
    small = lay_out(StepPlan((SequenceSlice(2, 0, 1, [5], [9], True),)), mirror)
    reused, expected = host.pack(small, mirror), fresh.pack(small, mirror)
    for name, view in unpack(reused, shape)._asdict().items():
        assert view.tolist() == getattr(unpack(expected, shape), name).tolist(), name


def test_a_step_larger_than_its_buffer_is_an_error_not_a_short_copy() -> None:
    mirror = BlockTableMirror(NUM_SLOTS, MAX_BLOCKS, BLOCK_SIZE)
    layout = lay_out(StepPlan((SequenceSlice(0, 0, 3, [1, 2, 3], [1], True),)), mirror)
    with pytest.raises(AssertionError, match="does not fit"):
        buffer(layout.shape._replace(num_tokens=2)).pack(layout, mirror)
