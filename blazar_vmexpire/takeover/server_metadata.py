# SPDX-License-Identifier: Apache-2.0
"""Reading ends from the metadata of VMs, where other systems write them.

Owners can write there as well: what is found is taken over within the limits that owners have.
"""

from __future__ import annotations

import datetime
import re

from blazar_vmexpire import extension

_SECONDS = re.compile(r"[0-9]{9,11}(\.[0-9]{1,9})?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_EPOCH = datetime.datetime(1970, 1, 1)
#: When a day ends, of which no hour is named.
_END_OF_DAY = "23:59"


def parse_end(text: str) -> datetime.datetime:
    """Read when a VM ends.

    :param text: ISO 8601, UTC unless it has an offset (``2027-01-10T04:50:00Z``); a day, of which
        the end is meant; or seconds since 1970.
    :returns: naive UTC, cut to the minute.
    :raises extension.NotAllowed: it is nothing of the kind.
    """
    text = text.strip()
    if _SECONDS.fullmatch(text):
        moment = _EPOCH + datetime.timedelta(seconds=float(text))
        return moment.replace(second=0, microsecond=0)
    return extension.parse_date(f"{text} {_END_OF_DAY}" if _DAY.fullmatch(text) else text)
