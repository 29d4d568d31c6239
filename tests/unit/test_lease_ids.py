# SPDX-License-Identifier: Apache-2.0
"""Ids that follow from a lease's own."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from blazar_vmexpire import leases

PARTS = ("reservation", *leases.EVENT_TYPES)


def ids_of(lease_id: str) -> list[str]:
    reservation, *event_types = PARTS
    assert reservation
    return [
        leases.reservation_id(lease_id),
        *(leases.event_id(lease_id, event_type) for event_type in event_types),
    ]


@given(st.uuids(version=4))
def test_they_are_four_uuids_of_version_8(lease: uuid.UUID) -> None:
    ids = ids_of(str(lease))
    assert len(set(ids)) == len(PARTS)
    for one in ids:
        parsed = uuid.UUID(one)
        assert (str(parsed), parsed.version, parsed.variant) == (one, 8, uuid.RFC_4122)


@given(st.uuids(version=4), st.uuids(version=4))
def test_those_of_two_leases_have_nothing_in_common(one: uuid.UUID, other: uuid.UUID) -> None:
    shared = set(ids_of(str(one))) & set(ids_of(str(other)))
    # But for two bits, which the variant of a UUID leaves free, all of the lease's id is kept.
    assert bool(shared) == (str(one)[:19] + str(one)[20:] == str(other)[:19] + str(other)[20:])
