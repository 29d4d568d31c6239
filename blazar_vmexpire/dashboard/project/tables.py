# SPDX-License-Identifier: Apache-2.0
"""The table of the project's instances that expire."""

from __future__ import annotations

from django.urls import reverse
from django.utils.translation import gettext_lazy
from horizon import tables

from blazar_vmexpire.dashboard import wording
from blazar_vmexpire.dashboard.actions import Extend, ExtendSeveral, Restore
from blazar_vmexpire.dashboard.paging import ExpirationsTable, Filter
from blazar_vmexpire.dashboard.vms import Vm


def _link(vm: Vm) -> str | None:
    if vm.state == "deleted":
        return None
    return reverse("horizon:project:instances:detail", args=[vm.id])


class VmExpirationsTable(ExpirationsTable):
    """Instances, those that end first at the top."""

    name = tables.WrappingColumn("name", link=_link, verbose_name=gettext_lazy("Instance Name"))
    ends = tables.Column(wording.ends, verbose_name=gettext_lazy("Ends"))
    what_happens = tables.WrappingColumn(
        wording.what_happens, verbose_name=gettext_lazy("What Will Happen")
    )
    state = tables.Column(lambda vm: wording.state(vm.state), verbose_name=gettext_lazy("State"))
    extensions_left = tables.Column(
        wording.extensions_left, verbose_name=gettext_lazy("Extensions Left")
    )

    class Meta:
        name = "vm_expirations"
        verbose_name = gettext_lazy("Instance Expiration")
        no_data_message = gettext_lazy("No instance of this project expires.")
        table_actions = (Filter, ExtendSeveral)
        row_actions = (Extend, Restore)
