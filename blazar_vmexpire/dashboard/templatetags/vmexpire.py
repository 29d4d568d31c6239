# SPDX-License-Identifier: Apache-2.0
"""``{% expiration_banner instance %}``: a warning above an instance whose end is near."""

from __future__ import annotations

import logging
from typing import Any

from django import template

from blazar_vmexpire.dashboard import api, wording
from blazar_vmexpire.dashboard.extending import extend_url

LOG = logging.getLogger(__name__)
register = template.Library()


@register.inclusion_tag("vmexpire/_banner.html")
def expiration_banner(instance: Any) -> dict[str, Any]:
    """Warn where no reminder comes any more; say nothing otherwise, whatever happens."""
    try:
        # A tab is rendered without the request, but Horizon's instances have it.
        request = instance.request
        elsewhere = instance.tenant_id != request.user.project_id
        vm = (api.known(request, [instance.id], all_projects=elsewhere) or {}).get(instance.id)
        if vm is None or not (vm.has_been_told_last or vm.can_be_restored):
            return {}
        return {
            "vm": vm,
            "state": wording.state(vm.state),
            "ends": vm.ends_at and wording.date(vm.ends_at),
            "distance": vm.ends_at and wording.distance(vm.ends_at),
            "what_happens": wording.what_happens(vm),
            "extend_url": extend_url(vm.id, request.path),
        }
    except Exception:
        LOG.exception("An instance is shown without a word on its end")
        return {}
