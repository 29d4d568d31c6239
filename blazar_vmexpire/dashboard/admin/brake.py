# SPDX-License-Identifier: Apache-2.0
"""The brake on mass deletion: how it stands, what would go, and letting it go on."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy
from horizon import messages, views

from blazar_vmexpire import words
from blazar_vmexpire.client import Client
from blazar_vmexpire.dashboard import api, wording
from blazar_vmexpire.dashboard.admin.views import project_names
from blazar_vmexpire.dashboard.forms import ReasonForm, ReasonView
from blazar_vmexpire.dashboard.vms import moment


class BrakeView(views.HorizonTemplateView):
    """How the brake stands."""

    template_name = "vmexpire/admin/brake.html"
    page_title = gettext_lazy("Brake on Mass Deletion")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Ask, or say why nothing is known."""
        context = super().get_context_data(**kwargs)
        try:
            with api.asking():
                brake = api.client(self.request).brake.get()
                tripped_at = moment(brake["tripped_at"])
                context |= {
                    "brake": brake,
                    "tripped": tripped_at and wording.date(tripped_at),
                    "reason": brake["reason"] and words.one_line(brake["reason"], 1000),
                    "going": list(self._going(brake["now"])),
                }
        except api.Failed as failure:
            messages.error(self.request, str(failure))
            context["failure"] = str(failure)
        return context

    def _going(self, now: dict[str, Any]) -> Any:
        names = project_names(self.request) if now["ending"]["count"] else {}
        for kind, title in (("ending", _ENDING), ("vanished", _VANISHED)):
            servers = [
                {
                    "name": words.one_line(server["server_name"]) or server["server_id"],
                    "project": names.get(server["project_id"], server["project_id"] or ""),
                }
                for server in now[kind]["servers"]
            ]
            yield {"title": title, "count": now[kind]["count"], "servers": servers}


_ENDING = gettext_lazy("Would be ended")
_VANISHED = gettext_lazy("Have vanished, and would be taken to be gone")


class _Change(ReasonForm):
    action: str

    def act(self, client: Client, data: dict[str, Any]) -> None:
        """Change it."""
        getattr(client.brake, self.action)(reason=data["reason"])


class Trip(_Change):
    """Stop all that cannot be undone."""

    action = "trip"
    title = gettext_lazy("Trip Brake")
    explanation = gettext_lazy("All that cannot be undone stops, until somebody releases it.")
    success = gettext_lazy("The brake has been tripped.")


class Release(_Change):
    """Let it go on."""

    action = "release"
    title = gettext_lazy("Release Brake")
    explanation = gettext_lazy(
        "What waits goes on, at its pace. Look at the list first: what is deleted is gone."
    )
    success = gettext_lazy("The brake has been released.")


_ACTS: dict[str, type[Any]] = {"trip": Trip, "release": Release}


class ChangeView(ReasonView):
    """The page of one of these."""

    success_url = reverse_lazy("horizon:admin:vm_expirations:brake")

    def get_form_class(self) -> type[Any]:
        """Return the form that the address names."""
        try:
            return _ACTS[self.kwargs["act"]]
        except KeyError:
            raise Http404 from None

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Say what is asked for."""
        form = self.get_form_class()
        self.page_title, self.explanation = form.title, form.explanation
        return super().get_context_data(**kwargs)
