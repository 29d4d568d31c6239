# SPDX-License-Identifier: Apache-2.0
"""What an administrator does to one instance's end, each with a reason."""

from __future__ import annotations

from typing import Any

from django import forms as django_forms
from django.http import Http404, HttpRequest
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy

from blazar_vmexpire.client import Client
from blazar_vmexpire.dashboard import wording
from blazar_vmexpire.dashboard.forms import OfOneVm, ReasonForm, ReasonView, date_field
from blazar_vmexpire.dashboard.vms import Vm


class _Steer(ReasonForm):
    title: str
    explanation: str
    success = gettext_lazy("Done.")

    def __init__(self, request: HttpRequest, *args: Any, vm: Vm, **kwargs: Any) -> None:
        super().__init__(request, *args, **kwargs)
        self.vm = vm

    def update(self, client: Client, data: dict[str, Any], **changes: Any) -> None:
        """Change it."""
        client.vm_expirations.update(self.vm.id, reason=data["reason"], **changes)


class Hold(_Steer):
    """Stop its clock for a while."""

    title = gettext_lazy("Hold Instance")
    explanation = gettext_lazy("Its clock stops until that date: no notices, and no end.")
    success = gettext_lazy("The instance is held.")
    until = date_field(label=gettext_lazy("Until"))
    ticket = django_forms.CharField(label=gettext_lazy("Ticket"), required=False, max_length=255)

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Hold it."""
        hold = {"until": data["until"], "ticket": data["ticket"] or None}
        self.update(client, data, hold=hold)


class Release(_Steer):
    """Let its clock go on."""

    title = gettext_lazy("Release Instance")
    explanation = gettext_lazy("Its clock goes on, with the end that it has without the hold.")
    success = gettext_lazy("The instance is held no longer.")

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Release it."""
        self.update(client, data, hold=None)


class Move(_Steer):
    """Give it any end."""

    title = gettext_lazy("Change End Date")
    explanation = gettext_lazy("Any date to come. The owner gets the usual notices of it.")
    success = gettext_lazy("The end has been moved.")
    ends_at = date_field(label=gettext_lazy("New end"))

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Move its end."""
        self.update(client, data, ends_at=data["ends_at"])


class Exempt(_Steer):
    """Leave it out."""

    title = gettext_lazy("Exempt Instance")
    explanation = gettext_lazy("It does not expire until that date; without a date, never.")
    success = gettext_lazy("The instance is left out.")
    until = date_field(label=gettext_lazy("Until"), required=False)

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Exempt it."""
        self.update(client, data, exempt={"until": data["until"]} if data["until"] else True)


class Include(_Steer):
    """Take it in again."""

    title = gettext_lazy("End Exemption")
    explanation = gettext_lazy("It expires again, and begins a full first term.")
    success = gettext_lazy("The instance is taken in again.")

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Take it in."""
        self.update(client, data, exempt=False)


class Expire(_Steer):
    """Have it end."""

    title = gettext_lazy("Expire Now")
    explanation = gettext_lazy(
        "It ends as soon as its owner has had the notice that this cloud promises; if forced,"
        " without any notice. The owner can extend it as long as it is there."
    )
    success = gettext_lazy("The instance is going to end.")
    force = django_forms.BooleanField(label=gettext_lazy("Without any notice"), required=False)
    confirmed = django_forms.BooleanField(label=gettext_lazy("I want this instance to end"))

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Have it end."""
        client.vm_expirations.expire(self.vm.id, reason=data["reason"], force=data["force"])


#: By their name in the address.
ACTS: dict[str, type[_Steer]] = {
    "hold": Hold,
    "release": Release,
    "move": Move,
    "exempt": Exempt,
    "include": Include,
    "expire": Expire,
}


class SteerView(OfOneVm, ReasonView):
    """The page of one of these."""

    success_url = reverse_lazy("horizon:admin:vm_expirations:index")

    def get_form_class(self) -> type[_Steer]:
        """Return the form that the address names."""
        try:
            return ACTS[self.kwargs["act"]]
        except KeyError:
            raise Http404 from None

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Say what is asked for, and of which instance."""
        form, vm = self.get_form_class(), self.get_vm()
        self.page_title, self.explanation = form.title, form.explanation
        return {**super().get_context_data(**kwargs), "vm": vm, "ends": wording.ends(vm)}
