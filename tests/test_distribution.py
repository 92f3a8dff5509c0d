"""Buckets and their sum."""

from __future__ import annotations

import msgspec
import pytest

from octavo.scheduler.distribution import Distribution


def test_bounds_are_inclusive_and_the_rest_has_a_bucket() -> None:
    values = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        values.observe(value)
    assert values.counts == [2, 2, 1]
    assert (values.count, values.total) == (5, 14.0)


def test_two_add_up() -> None:
    one, other = Distribution((1.0,)), Distribution((1.0,))
    one.observe(0.5)
    other.observe(3.0)
    one.absorb(other.counts, other.total)
    assert (one.counts, one.total) == ([1, 1], 3.5)
    assert other.counts == [0, 1]


def test_other_bounds_do_not_add_up() -> None:
    with pytest.raises(ValueError):
        Distribution((1.0,)).absorb([1, 2, 3], 1.0)


def test_it_travels() -> None:
    values = Distribution((1.0,))
    values.observe(3.0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(values), type=Distribution) == values
