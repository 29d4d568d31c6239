# SPDX-License-Identifier: Apache-2.0
"""The tab "Expiration" of an instance's page: its dates on a line, and what happened to it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from horizon import exceptions, tabs
from openstack_dashboard.api import base

from blazar_vmexpire import words
from blazar_vmexpire.dashboard import api, history, timeline, wording
from blazar_vmexpire.dashboard.extending import extend_url
from blazar_vmexpire.dashboard.vms import Vm, moment

#: The most of its history that is shown.
_ENTRIES = 500


class ExpirationTab(tabs.Tab):
    """Asked for when it is opened, so that it costs the page nothing."""

    name = gettext_lazy("Expiration")
    slug = "expiration"
    template_name = "vmexpire/_expiration_tab.html"
    preload = False

    def allowed(self, request: HttpRequest) -> bool:
        """Be there where the service is."""
        return base.is_service_enabled(request, "reservation")

    def get_context_data(self, request: HttpRequest) -> dict[str, Any]:
        """Ask, and say what goes wrong: Horizon has no page for an error in a tab."""
        instance = self.tab_group.kwargs["instance"]
        try:
            with api.asking():
                vms = api.client(request).vm_expirations
                answer = vms.get(instance.id)
                happened = [_entry(entry) for entry in vms.history(instance.id, _ENTRIES)]
                vm = Vm.of(answer)
                marks = timeline.marks(vm, answer["notices"])
                hold = answer["hold"]
        except api.Failed as failure:
            return {"failure": str(failure)}
        except exceptions.NotAuthenticated:
            return {"failure": _("Your session is over. Log in again.")}
        return {
            "vm": vm,
            "ends": wording.ends(vm),
            "state": wording.state(vm.state),
            "what_happens": wording.what_happens(vm),
            "extensions_left": wording.extensions_left(vm),
            "hold": hold and {"reason": words.one_line(hold["reason"])},
            "marks": marks,
            "history": happened,
            "extend_url": extend_url(vm.id, f"{request.path}?tab=instance_details__expiration"),
        }


def _entry(entry: dict[str, Any]) -> dict[str, str]:
    at = moment(entry["at"])
    return {
        "at": "" if at is None else wording.date(at),
        "event": history.event(entry["event"]),
        "actor": entry["actor"] or "",
        "details": history.details(entry["event"], entry["details"]),
    }
