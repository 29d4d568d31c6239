# SPDX-License-Identifier: Apache-2.0
"""Asking Nova: servers, one by one and all of them.

A single server is asked for, and acted on, through novaclient. It believes an answer of whatever
status below 400, and of an error it keeps neither the body nor whose words they are; so it is given
a session that lets only those answers through that are Nova's. Lists are read as they come: to make
an object of each server costs more than to ask for them, and novaclient keeps the ids of what it
lists in files.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keystoneauth1 import adapter
from keystoneauth1 import session as ksa_session
from novaclient import client as novaclient
from oslo_utils import uuidutils

from blazar_vmexpire import tracing
from blazar_vmexpire.cloud import errors, rest
from blazar_vmexpire.cloud.servers import GONE, Attachment, Migration, Server
from blazar_vmexpire.cloud.session import ANY, Endpoints

#: The microversion of all our requests, pinned so that the answers keep their shape. 2.73 brought
#: the lock's reason, 2.75 the 400 for a mistyped query, 2.85 the change of a volume's
#: delete_on_termination. 2.90 is the maximum of Xena and Yoga (2021, 2022), so that every cloud
#: that can run Blazar 18 speaks it; nothing above it is needed.
MICROVERSION = "2.90"

#: The status that means success, by method: of a GET, of an action, of a DELETE.
_SUCCESS = {"GET": 200, "POST": 202, "DELETE": 204}
#: Actions that Nova answers as it does a DELETE.
_WITHOUT_BODY = frozenset({"confirmResize"})


class _NotAsExpected(Exception):
    """An answer that novaclient must not see."""

    def __init__(self, response: Any, expected: int) -> None:
        super().__init__(response)
        self.response = response
        self.expected = (expected,)


class _Sieve(adapter.Adapter):  # type: ignore[misc]
    """Stands between novaclient and the session: lets only good answers of Nova's through."""

    def request(self, url: str, method: str, **how: Any) -> Any:
        """Send a request.

        :raises _NotAsExpected: for any other answer
        """
        how["global_request_id"] = tracing.current()
        response = super().request(url, method, **how)
        action = next(iter(how.get("json") or ()), None)
        expected = _SUCCESS["DELETE" if action in _WITHOUT_BODY else method]
        try:
            good = response.status_code == expected
            if good and response.text:
                response.json()
        except (ValueError, RecursionError):
            good = False
        if not good:
            raise _NotAsExpected(response, expected)
        return response


class Nova:
    """Nova's servers, asked with the service's own (administrator's) token.

    Each method makes one request, unless it says otherwise, and raises a
    :class:`~blazar_vmexpire.cloud.errors.CloudError` when that was not done. A NotFound of anything
    but :meth:`get` is no proof that the server is gone: Nova also says 404 to a stop or a delete of
    a server that has no host yet.
    """

    def __init__(self, session: ksa_session.Session, endpoints: Endpoints = ANY) -> None:
        self._rest = rest.Rest(
            session,
            endpoints,
            service="nova",
            service_type="compute",
            microversion=MICROVERSION,
        )
        # An explicit version is not negotiated: nothing is sent here, and nothing beside a request.
        self._servers = novaclient.Client(
            MICROVERSION,
            session=_Sieve(session),
            service_type="compute",
            endpoint_type=list(endpoints.interfaces),
            region_name=endpoints.region_name,
            user_agent=None,
            connect_retries=0,
            status_code_retries=0,
        ).servers

    def get(self, server_id: str) -> Server:
        """Return the server with this UUID, of whatever project.

        A server being reclaimed later (Nova's ``reclaim_instance_interval``) is still there, with
        the status ``SOFT_DELETED``.

        :raises NotFound: Nova has no such server: the only proof that it is gone
        :raises Unavailable: no trustworthy answer, or its cell is down
        """
        what = f"get server {server_id}"
        server = Server.from_json(self._ask(what, self._servers.get, server_id).to_dict())
        if server.id != server_id:
            raise self._rest.unavailable(what, f"the answer is about server {server.id}")
        return server

    def stop(self, server_id: str) -> None:
        """Begin to shut a server down; it is down when its status is ``SHUTOFF``.

        :raises Conflict: it is neither active nor in error (it may be stopped already), or Nova is
            doing something to it
        """
        self._ask(f"stop server {server_id}", self._servers.stop, server_id)

    def start(self, server_id: str) -> None:
        """Begin to start a stopped server.

        :raises Conflict: it is not stopped (it may run already), or Nova is doing something to it
        """
        self._ask(f"start server {server_id}", self._servers.start, server_id)

    def unrescue(self, server_id: str) -> None:
        """Begin to boot a server in rescue from its own disk again.

        :raises Conflict: it is not in rescue, or Nova is doing something to it
        """
        self._ask(f"unrescue server {server_id}", self._servers.unrescue, server_id)

    def lock(self, server_id: str, reason: str) -> None:
        """Lock a server against its owner. Locking a locked server changes the reason, no more.

        :param reason: shown to the owner, at most 255 characters
        """
        self._ask(f"lock server {server_id}", self._servers.lock, server_id, reason)

    def unlock(self, server_id: str) -> None:
        """Unlock a server, whoever locked it. It may be unlocked already."""
        self._ask(f"unlock server {server_id}", self._servers.unlock, server_id)

    def shelve(self, server_id: str) -> None:
        """Begin to shelve a server: shut it down, and save its disk.

        Nova makes an image ``NAME-shelved`` of it, which belongs to our own project at first; of a
        volume-backed server it makes none. It is shelved when its status is ``SHELVED`` or, where
        it was taken off its host as well, ``SHELVED_OFFLOADED``. When the image cannot be made,
        Nova gives up without a word: the server is as it was, or stopped, and the image is left.

        :raises Conflict: its state does not allow it, or Nova is doing something to it
        """
        self._ask(f"shelve server {server_id}", self._servers.shelve, server_id)

    def shelve_offload(self, server_id: str) -> None:
        """Begin to take a shelved server off its host; then it is ``SHELVED_OFFLOADED``.

        :raises Conflict: it is not ``SHELVED``, or Nova is doing something to it
        """
        what = f"take shelved server {server_id} off its host"
        self._ask(what, self._servers.shelve_offload, server_id)

    def unshelve(self, server_id: str) -> None:
        """Begin to bring a shelved server back; it runs when its status is ``ACTIVE``.

        Where no host has room for it, it stays ``SHELVED_OFFLOADED``. Nova removes the image that
        it was saved in.

        :raises Conflict: it is not shelved, or Nova is doing something to it
        :raises Refused: a quota is exhausted
        """
        self._ask(f"unshelve server {server_id}", self._servers.unshelve, server_id)

    def live_migrate(self, server_id: str, host: str | None) -> None:
        """Begin to move a running or paused server to another host, while it runs.

        It is over when nothing is being done to the server any more; :meth:`migrations` tells how
        it went. Nova decides by itself whether the disk has to be moved, too.

        :param host: which has to pass Nova's scheduler like any other; None lets that choose
        :raises Conflict: it is in no such state, or Nova is doing something to it
        :raises Refused: Nova has no such host, or never moves such a server
        """
        what = f"live-migrate server {server_id} to {host or 'any host'}"
        self._ask(what, self._servers.live_migrate, server_id, host, "auto")

    def migrate(self, server_id: str, host: str | None) -> None:
        """Begin to move a stopped server to another host; a running one would be stopped for that.

        When it is there its status is ``VERIFY_RESIZE``: it waits for :meth:`confirm_resize`.

        :param host: as in :meth:`live_migrate`
        :raises Conflict: it is in no such state, or Nova is doing something to it
        :raises Refused: Nova has no such host, or it is the one that the server is on
        """
        what = f"migrate server {server_id} to {host or 'any host'}"
        self._ask(what, self._servers.migrate, server_id, host)

    def confirm_resize(self, server_id: str) -> None:
        """Begin to remove what a server that was resized or moved left behind on its old host.

        Its status stays ``VERIFY_RESIZE`` until that is done.

        :raises Conflict: it has another status, or the old host is down
        :raises Refused: there is nothing to confirm; it may be under way
        """
        what = f"confirm the resize of server {server_id}"
        self._ask(what, self._servers.confirm_resize, server_id)

    def migrations(self, server_id: str) -> list[Migration]:
        """Return a server's moves and resizes, the newest first.

        :raises Unavailable: no trustworthy answer
        :raises Refused: our account may not see them
        """
        what = f"list migrations of server {server_id}"
        # A server's own list, /servers/…/migrations, has only live ones that are under way.
        found = self._list("/os-migrations", "migrations", what, instance_uuid=server_id)
        for raw in found:
            if rest.Fields("nova", what, raw).text("instance_uuid") != server_id:
                raise self._rest.unavailable(what, "the answer is about other servers, too")
        return [Migration.from_json(raw) for raw in found]

    def aggregate_hosts(self, name: str) -> list[str] | None:
        """Return the hosts of a host aggregate; None when there is no aggregate of that name.

        :raises Unavailable: no trustworthy answer
        :raises Refused: our account may not see aggregates
        """
        what = f"look for aggregate {name}"
        for raw in self._list("/os-aggregates", "aggregates", what):
            fields = rest.Fields("nova", what, raw)
            if fields.text("name") == name:
                return [str(host) for host in fields.need("hosts", list)]
        return None

    def hosts_up(self) -> set[str]:
        """Return the hosts whose nova-compute is up and enabled.

        :raises Unavailable: no trustworthy answer
        :raises Refused: our account may not see Nova's services
        """
        what = "list compute hosts"
        services = [
            rest.Fields("nova", what, raw)
            for raw in self._list("/os-services", "services", what, binary="nova-compute")
        ]
        return {
            service.text("host")
            for service in services
            # Of a host in a cell that is down Nova knows no state.
            if service.text("binary") == "nova-compute"
            and service.text("status") == "enabled"
            and service.text_or_none("state") == "up"
        }

    def delete(self, server_id: str) -> None:
        """Begin to delete a server, locked or not, in any state.

        It is gone when :meth:`get` raises NotFound. Where Nova reclaims later, it stays with the
        status ``SOFT_DELETED`` until then.

        :raises NotFound: Nova has no such server any more; :meth:`get` tells for sure
        """
        self._ask(f"delete server {server_id}", self._servers.delete, server_id)

    def create_image(self, server_id: str, name: str, properties: Mapping[str, str]) -> str:
        """Begin to make an image of a server's disk, and return the image's id.

        The image belongs to our own project at first. Only its status in Glance, ``active``, says
        that it was made: Nova drops a failed one without a word. Of a volume-backed server Nova
        snapshots every volume instead, and the image is empty and active at once.

        :param properties: extra properties of the image, to find it again by
        :raises Conflict: the server's state does not allow it, or Nova is doing something to it
        :raises Refused: a quota is exhausted
        :raises Unavailable: among others, when the answer got lost: the image may be in the making
            all the same, and can be found by its properties
        """
        what = f"create image of server {server_id}"
        image_id = str(
            self._ask(what, self._servers.create_image, server_id, name, dict(properties))
        )
        if not uuidutils.is_uuid_like(image_id):
            # novaclient makes a text of whatever is there, of null too.
            raise self._rest.unavailable(what, f"the answer names image {image_id!r}")
        return image_id

    def set_metadata(self, server_id: str, metadata: Mapping[str, str]) -> dict[str, str]:
        """Write some of a server's metadata, and return all of them; the others stay.

        Nova 34 does this for a server that is active, paused, suspended or stopped, without a task
        under way, locked or not. The limit of items that it checks is that of our own project.

        :param metadata: keys and values of at most 255 characters
        :raises Conflict: the server's state does not allow it, or Nova is doing something to it
        :raises Refused: there would be more of them than Nova's limit, or one is not allowed
        """
        what = f"set metadata of server {server_id}"
        # Not by novaclient, which makes attributes of an object of them, whatever they are called.
        answer = self._rest.call(
            "POST",
            rest.path("servers", server_id, "metadata"),
            what,
            expected=(200,),
            about=server_id,
            body={"metadata": dict(metadata)},
        )
        return dict(rest.Fields("nova", what, answer).need("metadata", dict))

    def delete_metadata(self, server_id: str, key: str) -> None:
        """Remove one of a server's metadata, in the states in which they can be written.

        :raises Conflict: the server's state does not allow it, or Nova is doing something to it
        :raises Unavailable: among others, when there is no such key
        """
        self._rest.call(
            "DELETE",
            rest.path("servers", server_id, "metadata", key),
            f"delete metadata {key} of server {server_id}",
            expected=(204,),
            about=server_id,
        )

    def attachments(self, server_id: str) -> list[Attachment]:
        """Return the volumes that are attached to a server.

        :raises NotFound: Nova has no such server; :meth:`get` tells for sure
        """
        what = f"list volumes of server {server_id}"
        answer = self._rest.call(
            "GET",
            rest.path("servers", server_id, "os-volume_attachments"),
            what,
            expected=(200,),
            about=server_id,
        )
        fields = rest.Fields("nova", what, answer)
        return [Attachment.from_json(raw) for raw in fields.need("volumeAttachments", list)]

    def set_delete_on_termination(self, server_id: str, volume_id: str, value: bool) -> None:
        """Say whether a volume is deleted with its server, and see that Nova will keep to that.

        Works in every state of a server, locked or not. Two requests.

        :raises NotFound: it is not attached to this server (any more)
        :raises Unavailable: among others, when Nova took the change but shows none
        """
        path = rest.path("servers", server_id, "os-volume_attachments", volume_id)
        what = f"set delete_on_termination={value} of volume {volume_id} of server {server_id}"
        wanted = {"volumeId": volume_id, "delete_on_termination": value}
        self._rest.call(
            "PUT",
            path,
            what,
            expected=(202,),
            about=volume_id,
            body={"volumeAttachment": wanted},
        )
        answer = self._rest.call("GET", path, what, expected=(200,), about=volume_id)
        raw = rest.Fields("nova", what, answer).need("volumeAttachment", dict)
        seen = Attachment.from_json(raw)
        if (seen.volume_id, seen.delete_on_termination) != (volume_id, value):
            raise self._rest.unavailable(what, f"afterwards it is {raw}")

    def pages(self, limit: int) -> Iterator[list[dict[str, Any]]]:
        """Yield all servers of the cloud, page by page, as the raw JSON of each.

        When it ends without raising, every server that existed from its beginning to its end was
        listed, with these reservations: servers that are ``SOFT_DELETED`` are not listed; a server
        may be listed twice; and Nova leaves out the servers of a cell that it cannot reach. The
        last is asked for afterwards, and raised, where our account may list Nova's services. So a
        server that is missing here is a question for :meth:`get`, never an answer.

        Items may be brief, with the status ``UNKNOWN``: see :meth:`Server.from_json`.

        :param limit: most servers on a page; Nova's own ``max_limit`` is a further bound
        :raises Unavailable: the listing is not complete; what was yielded before is good
        :raises Refused: our account may not list the servers of all projects
        """
        # The newest first, which is also Nova's own order. A server that is created meanwhile
        # does not shift the others. The oldest first would be wrong: while the servers still to be
        # scheduled fill a page, the marker is one of them, and when that one reaches its cell, the
        # list would go on behind it and leave out all that are older.
        order = [("sort_key", "created_at"), ("sort_dir", "desc")]
        order += [("sort_key", "uuid"), ("sort_dir", "desc")]
        marker: str | None = None
        seen: set[str] = set()
        while True:
            what = "list servers" if marker is None else f"list servers after {marker}"
            params = [("all_tenants", "1"), ("limit", str(limit)), *order]
            if marker is not None:
                params.append(("marker", marker))
            try:
                answer = self._rest.call(
                    "GET", "/servers/detail", what, expected=(200,), params=params
                )
            except errors.Refused as exc:
                if marker is not None and exc.status == 400:
                    # "marker [...] not found": the server was deleted and purged meanwhile.
                    raise self._rest.unavailable(
                        what, exc.detail, exc.status, exc.request_id
                    ) from exc
                raise
            fields = rest.Fields("nova", what, answer)
            page = fields.need("servers", list)
            if not page:
                break
            for raw in page:
                if not isinstance(raw, dict) or not isinstance(raw.get("id"), str):
                    rest.Fields("nova", what, raw).text("id")  # Says what is wrong with it.
            # No "next" link does not mean the end: Nova drops a server that is listed both as
            # scheduled and in its cell, counts one too few, and then gives no link. Only an empty
            # page is the end.
            following = rest.next_marker(answer.get("servers_links")) or page[-1]["id"]
            if following in seen or following == marker:
                raise fields.wrong(f"the next page begins after server {following} once more")
            seen.add(following)
            yield page
            marker = following
        self._check_cells()

    def was_deleted(self, server_id: str) -> bool:
        """Say whether Nova's own list of deleted servers has this one.

        That it is not there proves nothing: ``nova-manage db archive_deleted_rows`` takes servers
        out of that list, and those of a cell that is down are left out.

        :raises Unavailable: no trustworthy answer
        :raises Refused: our account may not list the servers of all projects
        """
        what = f"look for server {server_id} among the deleted ones"
        # Nova drops these filters without a word for an account that may not use all of them
        # (its allow_all_filters), and then lists other servers, or living ones: so what is listed
        # is looked at.
        params = [("all_tenants", "1"), ("deleted", "true"), ("uuid", server_id), ("limit", "1")]
        answer = self._rest.call("GET", "/servers/detail", what, expected=(200,), params=params)
        for raw in rest.Fields("nova", what, answer).need("servers", list):
            fields = rest.Fields("nova", what, raw)
            if fields.text("id") == server_id and fields.text("status") in GONE:
                return True
        return False

    def _check_cells(self) -> None:
        """Raise Unavailable when Nova cannot reach all cells.

        In a list without pages Nova gives the servers of such a cell as ``UNKNOWN``; in a page it
        leaves them out, and the answer to the whole may be 200 and an empty list (tried on Nova 34;
        its ``_is_cell_down_supported``). Of the services it always says so.
        """
        what = "list services"
        try:
            services = self._list("/os-services", "services", what)
        except errors.Refused:
            return  # an account with narrower rights than an administrator's cannot know
        lost = sorted(
            str(service.get("host"))
            for service in services
            if isinstance(service, dict) and service.get("status") == "UNKNOWN"
        )
        if lost:
            hosts = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
            raise self._rest.unavailable(
                what,
                f"Nova cannot reach the cell of {len(lost)} hosts ({hosts}):"
                " their servers may be missing from the list",
            )

    def _list(self, path: str, key: str, what: str, **filters: str) -> list[Any]:
        answer = self._rest.call("GET", path, what, expected=(200,), params=filters)
        found: list[Any] = rest.Fields("nova", what, answer).need(key, list)
        return found

    def _ask(self, what: str, call: Callable[..., Any], server_id: str, *arguments: Any) -> Any:
        """Have novaclient do something to one server.

        :param what: the call in words, for the messages
        :raises CloudError: one of its subclasses
        """
        if not server_id:
            # The path would be that of the whole collection.
            raise errors.Refused("nova", what, "there is no id to ask for")
        try:
            # What comes from outside stays one segment of the path.
            return call(urllib.parse.quote(server_id, safe=""), *arguments)
        except _NotAsExpected as exc:
            self._rest.judge(exc.response, what, expected=exc.expected, about=server_id)
            raise AssertionError("an answer was held back that is good") from exc
        except (AttributeError, KeyError, TypeError) as exc:
            detail = f"the answer is not what it must be: {rest.in_words(exc)}"
            raise self._rest.unavailable(what, detail) from exc
        except Exception as exc:
            # As in Rest.call: whatever it is, there is no answer.
            raise self._rest.unavailable(what, rest.in_words(exc)) from exc
