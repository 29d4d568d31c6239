# SPDX-License-Identifier: Apache-2.0
"""Turning pages by the API's markers, and filters that the API applies."""

from __future__ import annotations

import datetime
from typing import Any

from django.http import QueryDict
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from horizon import messages, tables
from horizon.utils import functions

from blazar_vmexpire.dashboard import api, wording
from blazar_vmexpire.dashboard.vms import Vm

#: As many pages can one turn back, one by one; from there the first page is the next.
_TRAIL = 30


class Filter(tables.FilterAction):
    """Which instances are listed."""

    name = "filter"
    filter_type = "server"
    filter_choices: tuple[tuple[str, str, bool], ...] = (
        ("name", gettext_lazy("Instance Name ="), True),
        ("state", gettext_lazy("State ="), True),
        ("days", gettext_lazy("Ends within days ="), True),
    )


class ExpirationsTable(tables.DataTable):
    """What tables of instances that expire have in common."""

    #: In which the API gave no answer; None: it did.
    failure: str | None = None
    next_marker: str | None = None

    def get_object_display(self, datum: Vm) -> str:
        """Name an instance."""
        return datum.name

    def get_empty_message(self) -> str:
        """Say why nothing is listed."""
        if self.failure is not None:
            return self.failure
        if self.get_filter_string():
            return _("No instance is like that.")
        return super().get_empty_message()

    def get_pagination_string(self) -> str:
        """Say in a query where the next page begins, and how one came here."""
        query = QueryDict(mutable=True)
        query["marker"] = self.next_marker or ""
        query.setlist("back", [*self._trail(), self.request.GET.get("marker", "")][-_TRAIL:])
        return query.urlencode()

    def get_prev_pagination_string(self) -> str:
        """Say in a query where the page before this one begins."""
        query = QueryDict(mutable=True)
        *rest, last = self._trail() or [""]
        if last:
            query["marker"] = last
        query.setlist("back", rest)
        return query.urlencode()

    def _trail(self) -> list[str]:
        return self.request.GET.getlist("back")


class PagesView(tables.DataTableView):
    """Lists instances a page at a time, those that end first at the beginning."""

    def has_prev_data(self, table: ExpirationsTable) -> bool:
        """Say whether this is not the first page."""
        return "marker" in self.request.GET

    def has_more_data(self, table: ExpirationsTable) -> bool:
        """Say whether it is not the last one."""
        return table.next_marker is not None

    def get_data(self) -> list[Vm]:
        """Read a page, or say why there is none."""
        try:
            with api.asking():
                found, self.table.next_marker = api.client(self.request).vm_expirations.page(
                    limit=functions.get_page_size(self.request),
                    marker=self.request.GET.get("marker") or None,
                    **self.wanted(),
                )
                return [Vm.of(answer) for answer in found]
        except api.Failed as failure:
            self.table.failure = str(failure)
            messages.error(self.request, str(failure))
            return []

    def wanted(self) -> dict[str, Any]:
        """Say to the API which instances are wanted.

        :raises api.Failed: what its user has typed makes no sense.
        """
        filters = self.get_filters()
        if (state := filters.get("state")) is not None:
            filters["state"] = _state(state)
        if (days := filters.pop("days", None)) is not None:
            filters["ends_before"] = _from_now(days)
        return filters


def _state(typed: str) -> str:
    """Read a state, as it is shown or as the API calls it."""
    for name, shown in wording.STATES.items():
        if typed.casefold() in (name, str(shown).casefold()):
            return name
    raise api.Failed(
        _("There is no state %(typed)s. There are: %(states)s.")
        % {"typed": typed, "states": ", ".join(map(str, wording.STATES.values()))},
    )


def _from_now(days: str) -> datetime.datetime:
    try:
        return timezone.now() + datetime.timedelta(days=float(days))
    except (ValueError, OverflowError):
        raise api.Failed(_("%(typed)s is no number of days.") % {"typed": days}) from None
