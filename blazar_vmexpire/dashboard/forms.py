# SPDX-License-Identifier: Apache-2.0
"""What our forms are made of: dates, reasons, and their pages."""

from __future__ import annotations

from typing import Any

from django import forms as django_forms
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy
from horizon import exceptions, forms, messages
from horizon.utils.memoized import memoized_method

from blazar_vmexpire.client import Client
from blazar_vmexpire.dashboard import api
from blazar_vmexpire.dashboard.vms import Vm

#: As a browser's own field for a date and a time has it.
LOCAL = "%Y-%m-%dT%H:%M"


class LocalDateTime(django_forms.DateTimeInput):
    """A browser's own field for a date and a time, in the time zone that the user has chosen."""

    input_type = "datetime-local"

    def __init__(self) -> None:
        super().__init__(format=LOCAL)


def date_field(**more: Any) -> django_forms.DateTimeField:
    """Return a field for a date and a time."""
    return django_forms.DateTimeField(
        input_formats=[LOCAL, "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"],
        widget=LocalDateTime(),
        **more,
    )


def with_zone(label: str) -> str:
    """Name the time zone in which a date is meant."""
    return f"{label} ({timezone.get_current_timezone_name()})"


class OfOneVm(forms.ModalFormView):
    """The page of a form about the one instance that the address names.

    The form gets it as ``vm``.
    """

    @memoized_method
    def get_vm(self) -> Vm:
        """Return the instance, or lead back to where one came from with a sentence."""
        try:
            with api.asking():
                vms = api.client(self.request).vm_expirations
                return Vm.of(vms.get(str(self.kwargs["server_id"])))
        except api.Failed as failure:
            messages.error(self.request, str(failure))
            raise exceptions.Http302(self.get_success_url()) from failure

    def get_form_kwargs(self) -> dict[str, Any]:
        """Add the instance."""
        return {**super().get_form_kwargs(), "vm": self.get_vm()}


class ReasonForm(forms.SelfHandlingForm):
    """Asks why something is done, and does it.

    :ivar success: what is said then.
    """

    reason = django_forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=1000,
        help_text=gettext_lazy("It is kept in the history, where others can read it."),
    )
    success: str

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(request, *args, **kwargs)
        for field in self.fields.values():
            if isinstance(field, django_forms.DateTimeField):
                field.label = with_zone(str(field.label))

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Do it, by the API."""
        raise NotImplementedError

    def handle(self, request: HttpRequest, data: dict[str, Any]) -> bool:
        """Do it, or say in the form why that is not possible."""
        try:
            with api.asking():
                self.act(api.client(request), data)
        except api.Failed as failure:
            self.api_error(str(failure))
            return False
        messages.success(request, str(self.success))
        return True


class ReasonView(forms.ModalFormView):
    """The page of such a form."""

    template_name = "vmexpire/reason.html"
    form_id = "reason_form"
    modal_id = "reason_modal"
    #: What is said beside the form.
    explanation: str = ""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Say what is asked for."""
        self.modal_header = self.submit_label = self.page_title
        self.submit_url = self.request.get_full_path()
        return {**super().get_context_data(**kwargs), "explanation": self.explanation}
