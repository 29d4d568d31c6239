# SPDX-License-Identifier: Apache-2.0
"""What terms depend on: facts of a VM as Nova showed it, and of its project as Keystone did.

They are kept in our tables, so that a hook of Blazar's, our API and a burst of a hundred thousand
ends can say a VM's terms without asking anybody.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from blazar_vmexpire.cloud.servers import Server
from blazar_vmexpire.db.projects import ProjectFacts
from blazar_vmexpire.rules import Subject

Facts = Mapping[str, Any]

#: Made once: a digest is asked for of every VM of the cloud at each reconciliation.
_JSON = json.JSONEncoder(sort_keys=True)


def facts_of(raw: Mapping[str, Any], ignored: Collection[str] = ()) -> dict[str, Any]:
    """Pick from a server's JSON what terms depend on, and what its end frees.

    :param raw: as Nova lists it at our microversion, with a status other than ``UNKNOWN``.
    :param ignored: keys of metadata that are our own.
    :raises LookupError, TypeError, AttributeError: it is not what Nova lists.
    """
    image = raw.get("image")
    return _facts(
        name=raw["name"] or "",
        flavor=raw["flavor"],
        availability_zone=raw.get("OS-EXT-AZ:availability_zone"),
        image=image["id"] if isinstance(image, dict) else None,
        metadata=raw["metadata"],
        tags=raw["tags"],
        ignored=ignored,
    )


def facts_of_server(server: Server, ignored: Collection[str] = ()) -> dict[str, Any]:
    """Pick the same from a server that was read already."""
    return _facts(
        name=server.name,
        flavor=server.flavor,
        availability_zone=server.availability_zone,
        image=server.image_id,
        metadata=server.metadata,
        tags=server.tags,
        ignored=ignored,
    )


def _facts(
    *,
    name: str,
    flavor: Mapping[str, Any],
    availability_zone: str | None,
    image: str | None,
    metadata: Mapping[str, Any],
    tags: Sequence[str],
    ignored: Collection[str],
) -> dict[str, Any]:
    return {
        "name": name,
        "flavor": flavor.get("original_name", ""),
        # Nova shows them only to those whom its policy lets see them.
        "flavor_extra_specs": flavor.get("extra_specs") or {},
        "vcpus": flavor.get("vcpus", 0),
        "ram_mb": flavor.get("ram", 0),
        "disk_gb": flavor.get("disk", 0),
        "availability_zone": availability_zone or None,
        "image": image,
        "metadata": {key: value for key, value in metadata.items() if key not in ignored},
        "tags": sorted(tags),
    }


def digest(facts: Facts) -> str:
    """Say a short text that is another one whenever the facts are."""
    return digest_of_text(as_text(facts))


def as_text(facts: Facts) -> str:
    """Write them as JSON, as their column in our tables holds them."""
    return _JSON.encode(facts)


def digest_of_text(text: str) -> str:
    """Say the same of facts that are written already."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Whose a VM is, and which it is."""

    server_id: str
    project_id: str
    user_id: str | None


def subject(whose: Whose, facts: Facts, project: ProjectFacts | None) -> Subject:
    """Put together what rules are matched against.

    :param project: None where Keystone does not know it.
    """
    return Subject(
        server_id=whose.server_id,
        server_name=facts.get("name", ""),
        server_metadata=facts.get("metadata", {}),
        server_tags=tuple(facts.get("tags", ())),
        image=facts.get("image"),
        flavor=facts.get("flavor", ""),
        flavor_extra_specs=facts.get("flavor_extra_specs", {}),
        availability_zone=facts.get("availability_zone"),
        user=whose.user_id,
        project=whose.project_id,
        domain=None if project is None else project.domain_id,
        project_name=None if project is None else project.name,
        project_enabled=None if project is None else project.enabled,
        project_properties={} if project is None else project.properties,
        project_tags=() if project is None else project.tags,
    )
