# SPDX-License-Identifier: Apache-2.0
"""The table of all projects' instances that expire."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext_lazy
from horizon import tables

from blazar_vmexpire.dashboard import paging, wording
from blazar_vmexpire.dashboard.vms import Vm


class Filter(paging.Filter):
    """Which instances are listed."""

    # Horizon keeps what is typed by this name: it is not the project's.
    name = "filter_admin"
    filter_choices = (
        *paging.Filter.filter_choices,
        ("project_id", gettext_lazy("Project ID ="), True),
        ("user_id", gettext_lazy("User ID ="), True),
        ("rule", gettext_lazy("Rule ="), True),
    )


class _Steer(tables.LinkAction):
    """Leads to a form; its name is that of the act."""

    classes = ("ajax-modal",)
    states: frozenset[str] | None = None
    but_for: frozenset[str] = frozenset({"deleted", "vanished"})

    def allowed(self, request: HttpRequest, datum: Vm) -> bool:
        """Offer it where it does something."""
        if self.states is not None:
            return datum.state in self.states
        return datum.state not in self.but_for

    def get_link_url(self, datum: Any = None) -> str:
        """Say where the form is."""
        return reverse("horizon:admin:vm_expirations:steer", args=[datum.id, self.name])


class Hold(_Steer):
    """Stop its clock."""

    name = "hold"
    verbose_name = gettext_lazy("Hold")
    icon = "pause"
    but_for = frozenset({"deleted", "vanished", "exempt"})


class Release(_Steer):
    """Let its clock go on."""

    name = "release"
    verbose_name = gettext_lazy("Release")
    icon = "play"
    states = frozenset({"held"})


class Move(_Steer):
    """Give it any end."""

    name = "move"
    verbose_name = gettext_lazy("Change End Date")
    icon = "calendar"
    but_for = frozenset({"deleted", "vanished", "exempt"})


class Exempt(_Steer):
    """Leave it out."""

    name = "exempt"
    verbose_name = gettext_lazy("Exempt")
    icon = "ban"
    but_for = frozenset({"deleted", "vanished", "exempt"})


class Include(_Steer):
    """Take it in again."""

    name = "include"
    verbose_name = gettext_lazy("End Exemption")
    icon = "undo"
    states = frozenset({"exempt"})


class Expire(_Steer):
    """Have it end."""

    name = "expire"
    verbose_name = gettext_lazy("Expire Now")
    icon = "trash"
    action_type = "danger"
    but_for = frozenset({"deleted", "vanished", "exempt", "ended"})


class _ToPage(tables.LinkAction):
    def get_link_url(self, datum: Any = None) -> str:
        """Say where the page is."""
        return reverse(f"horizon:admin:vm_expirations:{self.name}")


class ToForecast(_ToPage):
    """Leads to the forecast."""

    name = "forecast"
    verbose_name = gettext_lazy("Forecast")
    icon = "bar-chart"


class ToExclusions(_ToPage):
    """Leads to the exclusions."""

    name = "exclusions"
    verbose_name = gettext_lazy("Exclusions")
    icon = "ban"


class ToBrake(_ToPage):
    """Leads to the brake."""

    name = "brake"
    verbose_name = gettext_lazy("Brake")
    icon = "hand-paper-o"


def _link(vm: Vm) -> str | None:
    if vm.state == "deleted":
        return None
    return reverse("horizon:admin:instances:detail", args=[vm.id])


class VmExpirationsTable(paging.ExpirationsTable):
    """Instances of all projects, those that end first at the top."""

    project = tables.Column(lambda vm: vm.project_id, verbose_name=gettext_lazy("Project"))
    name = tables.WrappingColumn("name", link=_link, verbose_name=gettext_lazy("Instance Name"))
    ends = tables.Column(wording.ends, verbose_name=gettext_lazy("Ends"))
    what_happens = tables.WrappingColumn(
        wording.what_happens, verbose_name=gettext_lazy("What Will Happen")
    )
    state = tables.Column(lambda vm: wording.state(vm.state), verbose_name=gettext_lazy("State"))
    rule = tables.Column(lambda vm: vm.rule, verbose_name=gettext_lazy("Rule"))

    class Meta:
        name = "vm_expirations"
        verbose_name = gettext_lazy("Instance Expirations")
        no_data_message = gettext_lazy("No instance expires.")
        table_actions = (Filter, ToForecast, ToExclusions, ToBrake)
        row_actions = (Move, Hold, Release, Exempt, Include, Expire)
