# SPDX-License-Identifier: Apache-2.0
"""Who is left out: the list, adding to it, taking from it."""

from __future__ import annotations

from typing import Any

from django import forms as django_forms
from django.http import HttpRequest
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy, ngettext_lazy
from horizon import messages, tables

from blazar_vmexpire import words
from blazar_vmexpire.client import Client
from blazar_vmexpire.dashboard import api, wording
from blazar_vmexpire.dashboard.forms import ReasonForm, ReasonView, date_field
from blazar_vmexpire.dashboard.vms import moment

_KINDS = (
    ("project", gettext_lazy("Project (ID)")),
    ("domain", gettext_lazy("Domain (ID)")),
    ("user", gettext_lazy("User (ID)")),
    ("flavor", gettext_lazy("Flavor (name)")),
    ("server", gettext_lazy("Instance (ID)")),
)


class Add(tables.LinkAction):
    """Leads to the form."""

    name = "add"
    verbose_name = gettext_lazy("Add Exclusion")
    url = "horizon:admin:vm_expirations:exclude"
    classes = ("ajax-modal",)
    icon = "plus"


class Remove(tables.DeleteAction):
    """Takes exclusions back."""

    help_text = gettext_lazy("Instances that nothing else leaves out begin a full first term.")

    @staticmethod
    def action_present(count: int) -> Any:
        """Say what it does."""
        return ngettext_lazy("Remove Exclusion", "Remove Exclusions", count)

    @staticmethod
    def action_past(count: int) -> Any:
        """Say what it has done."""
        return ngettext_lazy("Removed Exclusion", "Removed Exclusions", count)

    def delete(self, request: HttpRequest, obj_id: str) -> None:
        """Take one back."""
        with api.asking():
            api.client(request).exclusions.delete(int(obj_id))


def _until(exclusion: dict[str, Any]) -> str:
    until = moment(exclusion["expires_at"])
    return wording.NOTHING if until is None else wording.date(until)


class ExclusionsTable(tables.DataTable):
    """Who is left out, by whom and why."""

    kind = tables.Column(
        lambda e: dict(_KINDS).get(e["kind"], e["kind"]), verbose_name=gettext_lazy("Kind")
    )
    value = tables.WrappingColumn(
        lambda e: words.one_line(e["value"]), verbose_name=gettext_lazy("Who")
    )
    reason = tables.WrappingColumn(
        lambda e: words.one_line(e["reason"], 1000), verbose_name=gettext_lazy("Reason")
    )
    author = tables.WrappingColumn(lambda e: e["author"], verbose_name=gettext_lazy("By"))
    until = tables.Column(_until, verbose_name=gettext_lazy("Until"))

    def get_object_id(self, datum: dict[str, Any]) -> str:
        """Return its number."""
        return str(datum["id"])

    def get_object_display(self, datum: dict[str, Any]) -> str:
        """Name it."""
        return words.one_line(datum["value"])

    class Meta:
        name = "vm_exclusions"
        verbose_name = gettext_lazy("Exclusions")
        no_data_message = gettext_lazy("Nobody is left out.")
        table_actions = (Add, Remove)
        row_actions = (Remove,)


class ExclusionsView(tables.DataTableView):
    """Who is left out."""

    table_class = ExclusionsTable
    page_title = gettext_lazy("Exclusions from Expiration")

    def get_data(self) -> list[dict[str, Any]]:
        """Read them, or say why there are none."""
        try:
            with api.asking():
                return list(api.client(self.request).exclusions.list())
        except api.Failed as failure:
            self.table._no_data_message = str(failure)
            messages.error(self.request, str(failure))
            return []


class AddForm(ReasonForm):
    """Asks who is left out."""

    success = gettext_lazy("They are left out.")
    kind = django_forms.ChoiceField(label=gettext_lazy("Kind"), choices=_KINDS)
    value = django_forms.CharField(label=gettext_lazy("ID or name"), max_length=255)
    until = date_field(label=gettext_lazy("Until"), required=False)
    field_order = ("kind", "value", "until", "reason")

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Leave them out."""
        client.exclusions.create(
            data["kind"], data["value"], reason=data["reason"], expires_at=data["until"]
        )


class AddView(ReasonView):
    """The page of the form."""

    form_class = AddForm
    page_title = gettext_lazy("Add Exclusion")
    explanation = gettext_lazy(
        "Instances of whoever is left out do not expire, until that date or for good."
    )
    success_url = reverse_lazy("horizon:admin:vm_expirations:exclusions")
