# SPDX-License-Identifier: Apache-2.0
"""What can be done in tables of instances that expire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import shortcuts
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy, ngettext, ngettext_lazy
from horizon import messages, tables

from blazar_vmexpire.dashboard import api
from blazar_vmexpire.dashboard.extending import extend_url
from blazar_vmexpire.dashboard.vms import Vm


class _ToForm(tables.LinkAction):
    """Leads to the form, and from there back to the page that one is on."""

    classes = ("ajax-modal",)
    #: Of the page, as it is without what its rows are updated by in the background. The table has
    #: it, too; but Horizon has one table for all requests that an action is asked about at a time.
    back = ""

    def vm(self, request: HttpRequest, datum: Any) -> Vm | None:
        """Return what is known of a row; None: it does not expire, or nothing is known."""
        return datum

    def allowed(self, request: HttpRequest, datum: Any) -> bool:
        """Offer it where it does something."""
        self.back = request.path if "action" in request.GET else request.get_full_path()
        vm = self.vm(request, datum)
        return vm is not None and self.is_for(vm)

    def is_for(self, vm: Vm) -> bool:
        """Say whether it does something for an instance."""
        raise NotImplementedError

    def get_link_url(self, datum: Any = None) -> str:
        """Say where the form is."""
        return extend_url(datum.id, self.back)


class Extend(_ToForm):
    """Extend one instance."""

    name = "extend"
    verbose_name = gettext_lazy("Extend")
    icon = "clock-o"

    def is_for(self, vm: Vm) -> bool:
        """Say whether its owner can extend it now."""
        return vm.can_be_extended


class Restore(_ToForm):
    """Give back one instance to which something was done because its end is near."""

    name = "restore"
    verbose_name = gettext_lazy("Restore")
    icon = "undo"

    def is_for(self, vm: Vm) -> bool:
        """Say whether something was done."""
        return vm.can_be_restored


class ExtendSeveral(tables.BatchAction):
    """Extend the instances that are ticked, each as far as it can be."""

    name = "extend_several"
    icon = "clock-o"
    help_text = gettext_lazy("Each of them gets the latest end that it can have now.")

    @staticmethod
    def action_present(count: int) -> Any:
        """Say what it does."""
        return ngettext_lazy("Extend Instance", "Extend Instances", count)

    @staticmethod
    def action_past(count: int) -> Any:
        """Say what it has done."""
        return ngettext_lazy("Extended Instance", "Extended Instances", count)

    def handle(
        self, table: tables.DataTable, request: HttpRequest, obj_ids: Sequence[str]
    ) -> HttpResponse:
        """Extend them with one request, and say of each that cannot be why."""
        # One that is on no page any more is still extended, if it is the user's.
        names = {vm.id: vm.name for vm in table.data}
        extended = 0
        try:
            with api.asking():
                for result in api.client(request).vm_expirations.extend_all(obj_ids):
                    if result["error"] is None:
                        extended += 1
                        continue
                    name = names.get(result["server_id"], result["server_id"])
                    messages.error(request, f"{name}: {result['error']}")
        except api.Failed as failure:
            messages.error(request, str(failure))
        if extended:
            messages.success(
                request,
                ngettext(
                    "%(count)d instance has been extended.",
                    "%(count)d instances have been extended.",
                    extended,
                )
                % {"count": extended},
            )
        return shortcuts.redirect(self.get_success_url(request))
