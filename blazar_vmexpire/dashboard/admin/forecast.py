# SPDX-License-Identifier: Apache-2.0
"""How much ends on each day of the coming weeks, and frees: a drawing, and the table behind it."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from horizon import messages, views

from blazar_vmexpire import words
from blazar_vmexpire.dashboard import api
from blazar_vmexpire.dashboard.admin.views import project_names

_DAYS = 28

#: What is drawn, by its name in the API.
_MEASURES = {
    "servers": gettext_lazy("Instances"),
    "vcpus": gettext_lazy("vCPUs"),
    "ram_mb": gettext_lazy("RAM (MB)"),
}
_STACKS = {"project_id": gettext_lazy("Project"), "rule": gettext_lazy("Rule")}

#: So many groups are told apart; the rest is drawn together. Each has a shade of the text's colour,
#: and stands in the same order in each bar, in the legend and in the table.
_SHADES = (1.0, 0.7, 0.45, 0.25)
_REST_SHADE = 0.1

#: Of the drawing, in its own units.
_WIDTH, _HEIGHT = 980, 200


class ForecastView(views.HorizonTemplateView):
    """What ends in the coming weeks."""

    template_name = "vmexpire/admin/forecast.html"
    page_title = gettext_lazy("Forecast of Ends")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Ask, or say why nothing is known."""
        measure = _known(self.request.GET.get("what"), _MEASURES)
        stack = _known(self.request.GET.get("by"), _STACKS)
        context = {
            **super().get_context_data(**kwargs),
            "measures": _MEASURES.items(),
            "stacks": _STACKS.items(),
            "measure": measure,
            "stack": stack,
        }
        today = timezone.now().astimezone(datetime.UTC).date()
        days = [today + datetime.timedelta(days=n) for n in range(_DAYS)]
        end = datetime.datetime.combine(days[-1], datetime.time.max, datetime.UTC)
        try:
            with api.asking():
                vms = api.client(self.request).vm_expirations
                groups = vms.summary(all_projects=True, ends_before=end)
                names = project_names(self.request) if stack == "project_id" else {}
                return context | chart(groups, days, measure, stack, names)
        except api.Failed as failure:
            messages.error(self.request, str(failure))
            return context | {"failure": str(failure)}


def _known(asked: str | None, names: Mapping[str, Any]) -> str:
    return asked if asked in names else next(iter(names))  # type: ignore[return-value]


def chart(
    groups: Iterable[Mapping[str, Any]],
    days: Sequence[datetime.date],
    measure: str,
    stack: str,
    names: Mapping[str, str],
) -> dict[str, Any]:
    """Say what is drawn, and what stands in the table behind it.

    :param groups: what the API has, by day, project and rule. What is overdue counts as of the
        first day.
    :param measure: what is drawn: one of the numbers of a group.
    :param stack: what bars are stacked by: ``project_id`` or ``rule``.
    :param names: of projects, by their ids.
    """
    figures: dict[datetime.date, collections.Counter[str]] = {
        day: collections.Counter() for day in days
    }
    parts: dict[datetime.date, collections.Counter[str]] = {
        day: collections.Counter() for day in days
    }
    total: collections.Counter[str] = collections.Counter()
    for group in groups:
        if group["day"] is None:
            continue
        day = max(datetime.date.fromisoformat(group["day"]), days[0])
        if day not in figures:
            continue
        key = group[stack] or ""
        parts[day][key] += group[measure]
        total[key] += group[measure]
        figures[day].update({name: group[name] for name in _MEASURES})
    told = [key for key, _count in total.most_common(len(_SHADES))]
    has_rest = len(total) > len(told)
    legend = [
        {"name": words.one_line(names.get(key, key)) or _("No rule"), "shade": shade}
        for key, shade in zip(told, _SHADES, strict=False)
    ]
    if has_rest:
        legend.append({"name": _("All others"), "shade": _REST_SHADE})
    most = max((sum(counts.values()) for counts in parts.values()), default=0)
    width = _WIDTH / len(days)
    rows: list[dict[str, Any]] = []
    for n, day in enumerate(days):
        counts = parts[day]
        stacked = [counts[key] for key in told]
        if has_rest:
            stacked.append(sum(counts.values()) - sum(stacked))
        rows.append(
            {
                "day": day.isoformat(),
                "figures": [figures[day][name] for name in _MEASURES],
                "parts": stacked,
                "total": sum(counts.values()),
                "x": round(10 + n * width, 1),
                "bars": _bars(stacked, legend, most),
            }
        )
    return {
        "legend": legend,
        "rows": rows,
        "most": most,
        "bar_width": round(width * 0.8, 1),
        "sum": sum(total.values()),
        "busiest": max(rows, key=lambda row: row["total"])["day"] if most else None,
    }


def _bars(
    stacked: Sequence[int], legend: Sequence[Mapping[str, Any]], most: int
) -> list[dict[str, Any]]:
    """Place the parts of a bar on one another, from the bottom."""
    bars, y = [], float(_HEIGHT)
    for count, group in zip(stacked, legend, strict=True):
        if count:
            height = _HEIGHT * count / most
            y -= height
            bars.append({"y": round(y, 1), "height": round(height, 1), "shade": group["shade"]})
    return bars
