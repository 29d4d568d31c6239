# SPDX-License-Identifier: Apache-2.0
"""Extending one instance, and giving back one to which something was done: a form, and its page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.translation import gettext as _
from horizon import forms, messages

from blazar_vmexpire.dashboard import api, wording
from blazar_vmexpire.dashboard.forms import LOCAL, OfOneVm, date_field, with_zone
from blazar_vmexpire.dashboard.vms import Vm


class ExtendForm(forms.SelfHandlingForm):
    """Asks for the new end."""

    until = date_field(required=False)

    def __init__(self, request: HttpRequest, *args: Any, vm: Vm, **kwargs: Any) -> None:
        super().__init__(request, *args, **kwargs)
        self.vm = vm
        field = self.fields["until"]
        field.label = with_zone(_("New end"))
        latest = vm.latest_allowed_end
        if vm.can_be_extended and latest is not None:
            field.initial = timezone.localtime(latest)
            field.widget.attrs["max"] = f"{timezone.localtime(latest):{LOCAL}}"
            field.help_text = _("The latest that you can choose now is filled in.")
        else:
            field.help_text = _("Left empty, it is the latest that you can choose now.")

    def handle(self, request: HttpRequest, data: dict[str, Any]) -> bool:
        """Extend it, and say until when; or say in the form why that is not possible."""
        try:
            with api.asking():
                vms = api.client(request).vm_expirations
                now = Vm.of(vms.extend(self.vm.id, data["until"]))
        except api.Failed as failure:
            self.api_error(str(failure))
            return False
        if now.ends_at is not None:
            messages.success(
                request,
                _("%(name)s ends on %(date)s now.")
                % {"name": now.name, "date": wording.date(now.ends_at)},
            )
        return True


class ExtendView(OfOneVm):
    """The page of the form; ``?next=`` says where it was asked for."""

    form_class = ExtendForm
    form_id = "extend_form"
    modal_id = "extend_modal"
    template_name = "vmexpire/extend.html"
    success_url = reverse_lazy("horizon:project:vm_expirations:index")
    url = "horizon:project:vm_expirations:extend"

    def get_success_url(self) -> str:
        """Lead back to where one came from, on this site alone."""
        wanted = self.request.GET.get("next", "")
        if url_has_allowed_host_and_scheme(
            wanted, {self.request.get_host()}, require_https=self.request.is_secure()
        ):
            return wanted
        return str(self.success_url)

    def get_cancel_url(self) -> str:
        """Lead back without doing anything."""
        return self.get_success_url()

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Say what is asked for."""
        vm = self.get_vm()
        title = _("Restore Instance") if vm.can_be_restored else _("Extend Instance")
        self.page_title = self.modal_header = self.submit_label = title
        self.submit_url = extend_url(vm.id, self.get_success_url(), self.url)
        return {
            **super().get_context_data(**kwargs),
            "vm": vm,
            "ends": wording.ends(vm),
            "what_happens": wording.what_happens(vm),
            "from_then_on": vm.extendable_from and wording.date(vm.extendable_from),
        }


def extend_url(server_id: str, back: str, url: str = ExtendView.url) -> str:
    """Say where an instance can be extended.

    :param back: where its user is to be led then.
    """
    return f"{reverse(url, args=[server_id])}?{urlencode({'next': back})}"
