# SPDX-License-Identifier: Apache-2.0
"""Ids that follow from a lease's own."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from blazar_vmexpire import leases


@given(st.uuids())
def test_they_are_version_5_uuids_in_the_name_space_of_the_lease(lease: uuid.UUID) -> None:
    assert leases.reservation_id(str(lease)) == str(uuid.uuid5(lease, "reservation"))
    assert leases.event_id(str(lease), "end_lease") == str(uuid.uuid5(lease, "end_lease"))
