# SPDX-License-Identifier: Apache-2.0
"""What Keystone was last seen to say of projects, in a table of ours."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa

from blazar_vmexpire.db.models import projects

#: Ids in one statement.
_BATCH = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProjectFacts:
    """A row of ``vm_expiration_projects``, but for when it was seen."""

    project_id: str
    domain_id: str
    name: str
    enabled: bool
    properties: Mapping[str, str]
    """What operators set on it. Values that are no texts are written as JSON has them."""
    tags: tuple[str, ...]


def read(connection: sa.Connection, project_ids: Collection[str]) -> dict[str, ProjectFacts]:
    """Read what is known of some projects, by id; without those that Keystone does not know."""
    found: dict[str, ProjectFacts] = {}
    wanted = sorted(project_ids)
    for begin in range(0, len(wanted), _BATCH):
        rows = connection.execute(
            sa.select(projects).where(projects.c.project_id.in_(wanted[begin : begin + _BATCH]))
        )
        found.update((row.project_id, _of(row)) for row in rows)
    return found


def read_all(connection: sa.Connection) -> dict[str, ProjectFacts]:
    """Read what is known of all projects, by id."""
    return {row.project_id: _of(row) for row in connection.execute(sa.select(projects))}


def write(
    connection: sa.Connection,
    seen: Iterable[ProjectFacts],
    now: datetime.datetime,
    *,
    gone: Collection[str] = (),
) -> None:
    """Write down what was seen, in place of what was known of these projects.

    :param gone: projects that Keystone says it does not know.
    """
    rows = [
        {
            "project_id": facts.project_id,
            "domain_id": facts.domain_id,
            "name": facts.name,
            "enabled": facts.enabled,
            "properties": json.dumps(dict(facts.properties), sort_keys=True),
            "tags": json.dumps(list(facts.tags)),
            "seen_at": now,
        }
        for facts in seen
    ]
    outdated = sorted({*gone, *(str(row["project_id"]) for row in rows)})
    for begin in range(0, len(outdated), _BATCH):
        connection.execute(
            sa.delete(projects).where(projects.c.project_id.in_(outdated[begin : begin + _BATCH]))
        )
    if rows:
        connection.execute(projects.insert(), rows)


def _of(row: sa.Row[tuple[object, ...]]) -> ProjectFacts:
    return ProjectFacts(
        project_id=row.project_id,
        domain_id=row.domain_id,
        name=row.name,
        enabled=bool(row.enabled),
        properties=json.loads(row.properties),
        tags=tuple(json.loads(row.tags)),
    )
