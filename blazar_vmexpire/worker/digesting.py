# SPDX-License-Identifier: Apache-2.0
"""Sending digests: what waits for one owner, as one mail.

A VM's own step says what is to be told of it and until when that can wait (see :mod:`.gathering`);
here it is told. Nothing is claimed for that: what is about to be sent is looked at once more, and
that it was accepted counts for the generation that it was said of, like any mail.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import threading
from collections.abc import Callable, Iterator, Sequence

from oslo_log import log as logging

from blazar_vmexpire import lifecycle, tracing
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import GONE
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import digests
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.notices import MailUnavailable, message_id_for
from blazar_vmexpire.worker.case import TELL_OF_THE_END, overtaken
from blazar_vmexpire.worker.recipients import Recipient
from blazar_vmexpire.worker.telling import Piece, Telling
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: How often it is looked whether there is something to be told.
INTERVAL = datetime.timedelta(seconds=10)
#: VMs in one mail at most. Large mail programs cut HTML off at 100 kB; what has been cut off has
#: not been told.
MOST = 100
#: When a VM is looked at again of which Nova has just said that it is gone.
_UNTIL_SURE = datetime.timedelta(minutes=5)

#: VMs, each with those of its notices that are told together.
_Members = Sequence[tuple[Expiration, Sequence[NoticeRow]]]


class Digesting:
    """Sends the digests that are due, owner by owner."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._telling = Telling(tools)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Begin no other digest."""
        self._stopping.set()

    def run(self, keep: Callable[[], None] = lambda: None) -> None:
        """Send what is due now.

        :param keep: called again and again; may raise to give up (the chore was taken over).
        """
        tools = self._tools
        with tools.database.begin() as connection:
            owners = digests.owners_due(connection, tools.clock())
        if not owners:
            return
        threads = tools.conf.vmexpire_worker.threads
        with concurrent.futures.ThreadPoolExecutor(threads, "vmexpire-digest") as pool:
            told = [pool.submit(self._tell, user_id) for user_id in owners]
            try:
                for each in told:
                    each.result()
                    keep()
            finally:
                for each in told:
                    each.cancel()

    def _tell(self, user_id: str) -> None:
        """Tell one owner what waits for them; what is wrong there keeps nobody else waiting."""
        if self._stopping.is_set():
            return
        tracing.begin()
        try:
            for name, members in self._due(user_id).items():
                self._send(user_id, name, members)
        except Exception:
            LOG.exception("What waits for user %s could not be told, and is tried again", user_id)

    def _due(self, user_id: str) -> dict[str, _Members]:
        """Read what is to be told to an owner, by digest; all that waits comes with what is due."""
        tools = self._tools
        now = tools.clock()
        with tools.database.begin() as connection:
            found = digests.waiting_for(connection, user_id)
            session = tools.book.session(connection, now, {r.project_id or "" for r, _ in found})
        due: set[str] = set()
        members: dict[str, list[tuple[Expiration, Sequence[NoticeRow]]]] = {}
        for row, waiting in found:
            worth_telling = self._worth_telling(row, waiting)
            if worth_telling and not session.judge_row(row).expires:
                # It is about to be let go of, by its own step.
                self._wake(row)
                continue
            by_digest: dict[str, list[NoticeRow]] = {}
            for notice in worth_telling:
                by_digest.setdefault(str(notice.digest), []).append(notice)
            for name, notices in by_digest.items():
                members.setdefault(name, []).append((row, notices))
                if any(notice.due_at and notice.due_at <= now for notice in notices):
                    due.add(name)
        return {name: those for name, those in members.items() if name in due}

    def _worth_telling(self, row: Expiration, waiting: Sequence[NoticeRow]) -> Sequence[NoticeRow]:
        """Leave out what has been overtaken by what happened since; it comes to rest."""
        ours = [notice for notice in waiting if notice.digest is not None]
        if row.state == State.VANISHED:
            self._look_later(ours)
            return []
        if row.state not in lifecycle.LEASED:
            past = ours
        else:
            past = [n for n in overtaken(waiting, row.generation) if n.digest is not None]
        if past:
            self._telling.give_up(past, "what it would tell is not so any more")
        return [notice for notice in ours if notice not in past]

    def _send(self, user_id: str, name: str, members: _Members) -> None:
        """Send a digest, or several where not all is for the same people, in the same language."""
        letters: dict[tuple[Recipient, str | None], list[Piece]] = {}
        for recipient, piece in self._pieces(members):
            letters.setdefault((recipient, piece.content.language), []).append(piece)
        for (recipient, _), pieces in letters.items():
            pieces.sort(key=_urgency)
            for begin in range(0, len(pieces), MOST):
                if self._stopping.is_set():
                    return
                self._send_one(user_id, name, recipient, pieces[begin : begin + MOST])

    def _pieces(self, members: _Members) -> Iterator[tuple[Recipient, Piece]]:
        """Say what there is to say of each VM, and to whom; one that fails is tried again alone."""
        answers = True
        for row, notices in members:
            seen: Expiration | None = row
            try:
                if answers:
                    seen = self._as_nova_has_it(row)
            except errors.CloudError as error:
                # What we know is good enough for a mail. Who does not answer is not asked on.
                LOG.warning("Server %s: it is written about as last seen: %s", row.server_id, error)
                answers = False
            if seen is None:
                continue
            try:
                # Of several, one about the end says most.
                speaks = max(notices, key=lambda n: (n.kind.startswith(TELL_OF_THE_END), n.id))
                recipient, content = self._telling.compose(seen, speaks)
            except (MailUnavailable, errors.CloudError) as error:
                self._telling.put_off([(row, notice) for notice in notices], error)
                continue
            yield recipient, Piece(seen, notices, content)

    def _as_nova_has_it(self, row: Expiration) -> Expiration | None:
        """Look at a VM before its owner is told of it; None if it is gone, which nobody is told.

        :raises errors.CloudError: Nova does not answer.
        """
        try:
            server = self._tools.cloud.nova.get(row.server_id)
        except errors.NotFound:
            server = None
        if server is None or server.status in GONE:
            with self._tools.database.begin() as connection:
                # What follows from that is its own step's to do.
                db_api.ask(connection, [row.server_id], self._tools.clock())
            return None
        return dataclasses.replace(row, server_name=db_api.storable(server.name, 255))

    def _send_one(
        self, user_id: str, name: str, recipient: Recipient, pieces: Sequence[Piece]
    ) -> None:
        notices = sorted((n for piece in pieces for n in piece.notices), key=lambda n: n.id)
        if self._telling.has_to_wait(notices):
            return
        message_id = pieces[0].notices[0].message_id
        if name == digests.WAITING:
            day = self._today()
            name = f"{day}/{notices[0].id}"
            if len(pieces) > 1:
                message_id = message_id_for(
                    user_id, f"digest/{day}", notices[0].id, self._tools.mailer.domain
                )
        pieces = self._joined(name, message_id, pieces)
        if pieces and self._telling.send(recipient, pieces):
            with self._tools.database.begin() as connection:
                # Their states follow from that.
                ids = [piece.row.server_id for piece in pieces]
                db_api.poke(connection, ids, self._tools.clock())

    def _joined(self, name: str, message_id: str, pieces: Sequence[Piece]) -> list[Piece]:
        """Commit what is in a digest, before it is sent; leave out what is not so any more."""
        members = [(piece.row, notice) for piece in pieces for notice in piece.notices]
        with self._tools.database.begin() as connection:
            joined = digests.join(connection, name, members, message_id)
        kept = []
        for piece in pieces:
            notices = [
                dataclasses.replace(notice, digest=name, message_id=message_id)
                for notice in piece.notices
                if notice.id in joined
            ]
            if notices:
                kept.append(dataclasses.replace(piece, notices=notices))
        return kept

    def _today(self) -> datetime.date:
        now = self._tools.clock()
        daily = self._tools.conf.vmexpire_mail.digest
        # What waits is told, even if digests have been switched off since.
        today: datetime.date = now.date() if daily is None else daily.day(now)
        return today

    def _wake(self, row: Expiration) -> None:
        with self._tools.database.begin() as connection:
            db_api.poke(connection, [row.server_id], self._tools.clock())

    def _look_later(self, notices: Sequence[NoticeRow]) -> None:
        due_at = self._tools.clock() + _UNTIL_SURE
        with self._tools.database.begin() as connection:
            for notice in notices:
                db_api.update_notice(connection, notice.id, due_at=due_at)


def _urgency(piece: Piece) -> tuple[datetime.datetime, str]:
    """Sort by when something is done to the VM, then by its name."""
    content = piece.content
    dates = [at for at in (content.quarantine_at, content.ends_at) if at and at > content.now]
    return min(dates, default=content.now), content.server_name
