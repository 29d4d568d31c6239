# SPDX-License-Identifier: Apache-2.0
"""Seeing to it that what terms depend on is known, and judging a VM by it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception

from blazar_vmexpire.adoption import Newcomer
from blazar_vmexpire.cloud import Cloud, errors
from blazar_vmexpire.cloud.keystone import Project
from blazar_vmexpire.cloud.servers import Server
from blazar_vmexpire.db import projects
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.db.projects import ProjectFacts
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.subjects import Facts, Whose
from blazar_vmexpire.terms import Verdict
from blazar_vmexpire.worker.tools import Tools


def newcomer(tools: Tools, row: Expiration, server: Server) -> Newcomer:
    """Judge a VM that may be taken in, by what Nova just showed of it.

    :param row: what is known of it so far.
    :raises errors.Unavailable: Keystone does not say whose it is.
    """
    ensure_project(tools, server.project_id)
    with tools.database.begin() as connection:

        def judge(whose: Whose, facts: Facts) -> Verdict:
            # What its owner chose for an earlier lease went with that.
            looked_at = dataclasses.replace(
                row, project_id=whose.project_id, user_id=whose.user_id, facts=facts, chosen={}
            )
            return tools.book.verdict(connection, looked_at, tools.clock())

        return Newcomer.of(server, tools.book.own_metadata, judge)


def ensure_project(tools: Tools, project_id: str) -> None:
    """See to it that a project is known, if Keystone knows it.

    What is known of it is made new by each reconciliation.

    :raises errors.Unavailable: Keystone does not answer.
    """
    with tools.database.begin() as connection:
        if projects.read(connection, [project_id]):
            return
    try:
        found = tools.cloud.keystone.get_project(project_id)
    except errors.NotFound:
        return
    _write(tools, [_facts(found)])


def listed_projects(cloud: Cloud) -> dict[str, ProjectFacts]:
    """Say what Keystone lists of projects now, by id.

    :raises errors.CloudError: it does not answer.
    """
    return {project.id: _facts(project) for project in cloud.keystone.list_projects()}


def refresh_projects(tools: Tools) -> None:
    """Write down what Keystone says of all projects now.

    One that is not in its list is asked for by itself, if a VM of it is known: the list may have
    been cut short. Only Keystone's 404 says that a project is gone.

    :raises errors.CloudError: Keystone does not answer; what is known stays.
    """
    listed = listed_projects(tools.cloud)
    with tools.database.begin() as connection:
        known = projects.read_all(connection)
        ours = set(
            connection.scalars(
                sa.select(expirations.c.project_id)
                .distinct()
                .where(expirations.c.project_id.is_not(None), expirations.c.state != State.DELETED)
            )
        )
    gone = set()
    for project_id in sorted((ours | known.keys()) - listed.keys()):
        try:
            listed[project_id] = _facts(tools.cloud.keystone.get_project(project_id))
        except errors.NotFound:
            gone.add(project_id)
    changed = [facts for facts in listed.values() if known.get(facts.project_id) != facts]
    _write(tools, changed, gone & known.keys())


def _write(tools: Tools, seen: Collection[ProjectFacts], gone: Collection[str] = ()) -> None:
    @retried
    def write() -> None:
        with tools.database.begin() as connection:
            projects.write(connection, seen, tools.clock(), gone=gone)

    try:
        write()
    except oslo_db_exception.DBDuplicateEntry:
        # Somebody else saw the same at the same moment.
        write()


def _facts(project: Project) -> ProjectFacts:
    return ProjectFacts(
        project_id=project.id,
        domain_id=project.domain_id,
        name=project.name,
        enabled=project.enabled,
        properties={
            key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for key, value in sorted(project.properties.items())
        },
        tags=tuple(sorted(project.tags)),
    )
