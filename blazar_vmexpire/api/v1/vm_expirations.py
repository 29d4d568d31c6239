# SPDX-License-Identifier: Apache-2.0
"""The routes of ``/v1/vm-expirations``."""

from __future__ import annotations

import datetime
import urllib.parse
import uuid
from collections.abc import Mapping
from typing import Any

import flask
import sqlalchemy as sa
from blazar import exceptions
from blazar import utils as blazar_utils
from blazar.api.v1 import utils
from oslo_utils import uuidutils

from blazar_vmexpire import extension
from blazar_vmexpire.api import access, policies, rpc, views
from blazar_vmexpire.api.routes import Call, Routes
from blazar_vmexpire.api.schemas import parts, vm_expirations
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import holds, listing
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.listing import Filters, Place
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.terms import TermsBook

routes = Routes("vm_expirations", __name__, "/vm-expirations")

_manager = blazar_utils.LazyProxy(rpc.ManagerRPCAPI)


@routes.serve(
    "GET",
    "",
    rules=(policies.LIST, policies.LIST_ALL),
    query=vm_expirations.LIST,
    answer=vm_expirations.VM_EXPIRATIONS,
)
def list_vm_expirations(call: Call) -> flask.Response:
    """List the VMs of a project that expire, by their end, a page at a time."""
    reading, now = call.reading, call.reading.clock()
    filters = _filters(call)
    sort_key = call.query.get("sort_key", "ends_at")
    limit = call.query.get("limit", parts.MOST)
    with reading.begin() as connection:
        rows = listing.page(
            connection,
            filters,
            sort_key=sort_key,
            descending=call.query.get("sort_dir") == "desc",
            after=_place(connection, call, filters, sort_key),
            limit=limit + 1,
        )
        # Some databases do not tell capital letters from small ones.
        rows = [row for row in rows if filters.project_id in (None, row.project_id)]
        shown = _show_all(reading.book, connection, rows[:limit], now)
    links = []
    if len(rows) > limit:
        last = listing.place_of(rows[limit - 1], sort_key)
        links.append(_next({"limit": limit, "marker": _marker(last, sort_key)}))
    return utils.render(  # type: ignore[no-any-return]
        vm_expirations=shown, vm_expirations_links=links
    )


@routes.serve(
    "GET",
    "/summary",
    rules=(policies.LIST, policies.LIST_ALL),
    query=vm_expirations.SUMMARY,
    answer=vm_expirations.VM_EXPIRATIONS_SUMMARY,
)
def summarize_vm_expirations(call: Call) -> flask.Response:
    """Count what ends, by day, project and rule: VMs, their vCPUs and their RAM."""
    filters = _filters(call)
    with call.reading.begin() as connection:
        found = listing.summary(connection, filters)
    return utils.render(  # type: ignore[no-any-return]
        vm_expirations_summary=[
            views.group(group) for group in found if filters.project_id in (None, group.project_id)
        ]
    )


@routes.serve(
    "GET",
    "/<server_id>",
    rules=(policies.SHOW,),
    answer=vm_expirations.VM_EXPIRATION_DETAIL,
)
def show_vm_expiration(call: Call, server_id: str) -> flask.Response:
    """Show all that is known of a VM's expiration; its ETag is the ``generation``."""
    reading, now, server_id = call.reading, call.reading.clock(), _uuid(server_id)
    with reading.begin() as connection:
        row = db_api.get(connection, server_id)
        row = access.authorize(call.context, policies.SHOW, row, server_id)
        if row.project_id is None or row.state == State.SEEN:
            # Nobody has looked at it yet.
            raise extension.NotFound(server_id)
        verdict = reading.book.verdict(connection, row, now)
        found = views.vm_expiration(row, verdict, now) | views.details(
            row,
            verdict,
            holds.current(connection, server_id, now),
            db_api.notices_of(connection, server_id),
        )
    return _render(found)


@routes.serve(
    "GET",
    "/<server_id>/history",
    rules=(policies.HISTORY,),
    query=vm_expirations.HISTORY,
    answer=vm_expirations.VM_EXPIRATION_HISTORY,
)
def show_vm_expiration_history(call: Call, server_id: str) -> flask.Response:
    """Show what happened to a VM, by whom and why, oldest first; also to one that is gone."""
    server_id = _uuid(server_id)
    limit = call.query.get("limit", parts.MOST)
    with call.reading.begin() as connection:
        found = listing.past(
            connection,
            server_id,
            _visible(call.context, connection, server_id),
            after=call.query.get("marker", 0),
            limit=limit + 1,
        )
    links = []
    if len(found) > limit:
        links.append(_next({"limit": limit, "marker": found[limit - 1].id}))
    return utils.render(  # type: ignore[no-any-return]
        vm_expiration_history=[views.history(entry) for entry in found[:limit]],
        vm_expiration_history_links=links,
    )


@routes.serve(
    "POST",
    "/<server_id>/extend",
    rules=(policies.EXTEND,),
    body=vm_expirations.EXTEND,
    answer=vm_expirations.VM_EXPIRATION,
)
def extend_vm_expiration(call: Call, server_id: str) -> flask.Response:
    """Give a VM a later end, and give it back if anything was done to it."""
    (until,) = [_sent(call.body, name) for name in call.body] or [None]
    return _render(
        _manager.ask("extend", server_id=_uuid(server_id), until=until, if_match=call.if_match)
    )


@routes.serve(
    "POST",
    "/extend",
    rules=(policies.EXTEND,),
    body=vm_expirations.EXTEND_MANY,
    answer=vm_expirations.RESULTS,
)
def extend_vm_expirations(call: Call) -> flask.Response:
    """Extend several VMs, each by itself: one that cannot be keeps no other from it."""
    until = _sent(call.body, "until")
    ids = call.body["server_ids"]
    known = {i: str(uuid.UUID(i)) for i in ids if uuidutils.is_uuid_like(i)}
    done = _manager.ask("extend_many", server_ids=list(known.values()), until=until)
    results = dict(zip(known, done, strict=True))
    return utils.render(  # type: ignore[no-any-return]
        results=[
            results.get(i)
            or {
                "server_id": i,
                "status": 404,
                "vm_expiration": None,
                "error": str(extension.NotFound(i)),
            }
            for i in ids
        ]
    )


@routes.serve(
    "PATCH",
    "/<server_id>",
    rules=(policies.HOLD, policies.UPDATE),
    body=vm_expirations.UPDATE,
    answer=vm_expirations.VM_EXPIRATION,
)
def update_vm_expiration(call: Call, server_id: str) -> flask.Response:
    """Hold a VM, leave it out, move its end, set what is done to it at its end: with a reason."""
    changes = {name: value for name, value in call.body.items() if name != "reason"}
    for name, value in changes.items():
        if name == "ends_at":
            _sent(changes, name)
        elif isinstance(value, Mapping):
            extension.parse_date(value["until"], f"{name}.until")
    return _render(
        _manager.ask(
            "update",
            server_id=_uuid(server_id),
            changes=changes,
            reason=call.body["reason"],
            if_match=call.if_match,
        )
    )


@routes.serve(
    "POST",
    "/<server_id>/expire-now",
    rules=(policies.EXPIRE_NOW,),
    body=vm_expirations.EXPIRE_NOW,
    answer=vm_expirations.VM_EXPIRATION,
)
def expire_vm_now(call: Call, server_id: str) -> flask.Response:
    """Have a VM end as soon as its owner has had notice, or at once."""
    return _render(
        _manager.ask(
            "expire_now",
            server_id=_uuid(server_id),
            reason=call.body["reason"],
            force=call.body.get("force", False),
            if_match=call.if_match,
        )
    )


@routes.serve(
    "POST",
    "",
    rules=(policies.ADOPT,),
    body=vm_expirations.ADOPT,
    answer=vm_expirations.ADOPTED,
    status=202,
)
def adopt_vm(call: Call) -> flask.Response:
    """Have a VM looked at in Nova now, and taken in if it is to be: that takes some seconds."""
    sent = call.body["server_id"]
    if not uuidutils.is_uuid_like(sent):
        raise extension.NotAllowed(f"server_id {sent!r} is not a UUID")
    found = _manager.ask("adopt", server_id=str(uuid.UUID(sent)))
    return utils.render(vm_expiration=found)  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------------------


def _uuid(server_id: str) -> str:
    """Read a VM's UUID.

    :raises extension.NotFound: it is none, so there is no such VM.
    """
    if not uuidutils.is_uuid_like(server_id):
        raise extension.NotFound(server_id[:40])
    return str(uuid.UUID(server_id))


def _uuids(listed: str | None) -> tuple[str, ...] | None:
    return None if listed is None else tuple(str(uuid.UUID(i)) for i in listed.split(","))


def _render(found: Mapping[str, Any]) -> flask.Response:
    response: flask.Response = utils.render(vm_expiration=found)
    response.set_etag(str(found["generation"]))
    return response


def _filters(call: Call) -> Filters:
    """Say which VMs are asked for, after the policy has allowed that.

    :raises blazar.exceptions.PolicyNotAuthorized: it has not.
    """
    asked = dict(call.query)
    if asked.get("all_projects"):
        if "project_id" in asked:
            raise exceptions.InvalidInput("all_projects and project_id exclude each other")
        access.require(call.context, policies.LIST_ALL)
        project_id = None
    else:
        project_id = asked.get("project_id", call.context.project_id) or ""
        access.require(call.context, policies.LIST, project_id)
    return Filters(
        project_id=project_id,
        user_id=asked.get("user_id"),
        state=asked.get("state"),
        rule=asked.get("rule"),
        name=asked.get("name"),
        server_ids=_uuids(asked.get("server_ids")),
        ends_before=_date(asked, "ends_before"),
        ends_after=_date(asked, "ends_after"),
    )


def _sent(body: Mapping[str, Any], name: str) -> str | None:
    """Read a date that was sent, and write it as the manager reads it."""
    found = _date(body, name)
    return None if found is None else f"{found:%Y-%m-%d %H:%M}"


def _date(asked: Mapping[str, Any], name: str) -> datetime.datetime | None:
    return extension.parse_date(asked[name], name) if name in asked else None


def _visible(context: Any, connection: sa.Connection, server_id: str) -> set[str] | None:
    """Say of which projects' time the caller may see a VM's history; None: of any.

    :raises extension.NotFound: nothing is recorded of it, or nothing that is theirs to see.
    """
    row = db_api.get(connection, server_id)
    known = listing.projects_in_history(connection, server_id)
    if known and access.may(context, policies.HISTORY, None):
        return None
    visible = {p for p in known if p is not None and access.may(context, policies.HISTORY, p)}
    if not visible:
        access.authorize(context, policies.HISTORY, row, server_id)
        raise extension.NotFound(server_id)
    return visible


def _show_all(
    book: TermsBook, connection: sa.Connection, rows: list[Expiration], now: datetime.datetime
) -> list[dict[str, Any]]:
    projects = {row.project_id for row in rows if row.project_id is not None}
    session = book.session(connection, now, projects)
    return [views.vm_expiration(row, session.judge_row(row), now) for row in rows]


# Pages -------------------------------------------------------------------------------------------


def _next(changed: Mapping[str, Any]) -> dict[str, str]:
    """Link to the next page: the same question, but for what is changed."""
    query = flask.request.args.to_dict() | {key: str(value) for key, value in changed.items()}
    return {"rel": "next", "href": f"{flask.request.base_url}?{urllib.parse.urlencode(query)}"}


def _marker(place: Place, sort_key: str) -> str:
    """Write a place so that it stays where it is, even if that VM moves to another.

    That it moves is what happens when it is extended.
    """
    if sort_key == "server_id":
        return place.server_id
    value = place.value
    if isinstance(value, datetime.datetime):
        value = value.isoformat()
    return f"{place.server_id},{value or ''}"


def _place(connection: sa.Connection, call: Call, filters: Filters, sort_key: str) -> Place | None:
    """Read where a page begins.

    :raises blazar.exceptions.InvalidInput: there is no such place.
    """
    marker = call.query.get("marker")
    if marker is None:
        return None
    server_id, has_value, value = marker.partition(",")
    wrong = exceptions.InvalidInput(
        f"marker {marker[:80]!r} is none: it must be the UUID of a server that is listed, or what a"
        " next link has"
    )
    if not uuidutils.is_uuid_like(server_id):
        raise wrong
    server_id = str(uuid.UUID(server_id))
    if not has_value:
        row = listing.find(connection, filters, server_id)
        if row is None:
            raise wrong
        return listing.place_of(row, sort_key)
    if sort_key != "ends_at":
        return Place(value=value, server_id=server_id)
    try:
        moment = datetime.datetime.fromisoformat(value) if value else None
    except ValueError:
        raise wrong from None
    if moment is not None and moment.tzinfo is not None:
        raise wrong
    return Place(value=moment, server_id=server_id)
