# SPDX-License-Identifier: Apache-2.0
"""The labels that a VM carries: what its metadata in Nova tell of its end, and in which words."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Protocol

from oslo_config import cfg

from blazar_vmexpire.conf import metadata as options
from blazar_vmexpire.exceptions import ConfigError


class Shown(Protocol):
    """What was written to a VM's metadata, by its row."""

    @property
    def shown_end(self) -> datetime.datetime | None:
        """The end that they tell; None: none was written yet."""

    @property
    def shown_state(self) -> str | None:
        """The state that they tell."""

    @property
    def show_after(self) -> datetime.datetime | None:
        """When they are written again; None: what is there is what was written."""


@dataclasses.dataclass(frozen=True, slots=True)
class Labels:
    """Keys of a VM's metadata that are ours."""

    enabled: bool
    end_key: str
    state_key: str

    @classmethod
    def of(cls, conf: cfg.ConfigOpts) -> Labels:
        """Read them from the options."""
        group = conf[options.GROUP.name]
        return cls(enabled=group.enabled, end_key=group.end_key, state_key=group.state_key)

    @property
    def keys(self) -> tuple[str, str]:
        """Both keys, whether they are written or not."""
        return self.end_key, self.state_key

    def edited(self, metadata: object, shown: Shown) -> bool:
        """Say whether somebody has changed what was written, as far as that can be known.

        :param metadata: as Nova shows them; anything but an object is no evidence.
        """
        if (
            not self.enabled
            or shown.shown_end is None
            or shown.show_after is not None
            or not isinstance(metadata, Mapping)
        ):
            return False
        return not self.tell(metadata, shown.shown_end, shown.shown_state)

    def written(self, end: datetime.datetime, state: str) -> dict[str, str]:
        """Say what is written to a VM's metadata."""
        return {self.end_key: text(end), self.state_key: state}

    def tell(
        self, metadata: Mapping[str, object], end: datetime.datetime, state: str | None
    ) -> bool:
        """Say whether metadata are as we would write them."""
        return state is not None and all(
            metadata.get(key) == value for key, value in self.written(end, state).items()
        )


def text(end: datetime.datetime) -> str:
    """Write an end as owners read it and can write it themselves.

    :param end: naive UTC.
    :returns: ISO 8601, as in ``2027-01-10T04:50Z``.
    """
    return f"{end.isoformat(timespec='minutes')}Z"


def check(conf: cfg.ConfigOpts) -> None:
    """Check what option types cannot check alone.

    :raises ConfigError: with a sentence that names the options.
    """
    labels = Labels.of(conf)
    if labels.end_key == labels.state_key:
        raise ConfigError(
            f"[{options.GROUP.name}] end_key and state_key are both {labels.end_key!r}: they must"
            " be two different keys"
        )
