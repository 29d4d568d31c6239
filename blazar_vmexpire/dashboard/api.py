# SPDX-License-Identifier: Apache-2.0
"""Asking our API as the user who is logged in, and saying in a sentence what goes wrong."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import requests
from django.conf import settings as django_settings
from django.http import HttpRequest
from django.utils.translation import gettext as _
from horizon import exceptions as horizon_exceptions
from keystoneauth1 import exceptions
from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token
from openstack_dashboard.api import base

from blazar_vmexpire.client import Client, sentence_of
from blazar_vmexpire.dashboard import settings
from blazar_vmexpire.dashboard.vms import Vm

LOG = logging.getLogger(__name__)

#: The most VMs that are named in one question: what the API allows.
_MOST_NAMED = 100

#: Where what was asked for a page is kept on its request.
_KEPT = "_vm_expirations"


class Failed(Exception):
    """The API refused, or gave no answer: a sentence for the reader, in their language."""


def client(request: HttpRequest, timeout: float | None = None) -> Client:
    """Return the client of our API, as the user who is logged in.

    :param timeout: seconds for an answer; None: what our own pages wait.
    :raises Failed: this cloud has no reservation service.
    """
    with asking():
        auth = Token(base.url_for(request, "reservation"), request.user.token.id)
    session = Session(
        auth=auth,
        verify=not django_settings.OPENSTACK_SSL_NO_VERIFY
        and (django_settings.OPENSTACK_SSL_CACERT or True),
        timeout=settings.get("timeout") if timeout is None else timeout,
        user_agent="blazar-vmexpire-dashboard",
    )
    return Client(session=session)


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Raise what a client raises as a :class:`Failed`.

    :raises horizon.exceptions.NotAuthenticated: the token is not valid any more; Horizon asks its
        user to log in again.
    """
    try:
        yield
    except exceptions.Unauthorized as error:
        raise horizon_exceptions.NotAuthenticated from error
    except exceptions.HTTPClientError as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise _unavailable(error) from error
        LOG.info("The API of blazar-vmexpire refused: %s", error)
        if isinstance(error, exceptions.Forbidden):
            sentence = _("You are not allowed to do this: %s") % sentence
        raise Failed(sentence) from error
    except (horizon_exceptions.ServiceCatalogException, exceptions.EndpointNotFound) as error:
        raise Failed(_("This cloud has no reservation service, or not in this region.")) from error
    except (
        exceptions.ClientException,
        requests.RequestException,
        # What answers is something else than our API.
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> Failed:
    LOG.warning("The API of blazar-vmexpire gave no answer: %s: %s", type(error).__name__, error)
    return Failed(
        _("The service that ends instances does not answer. Try again in a moment."),
    )


class _Kept:
    """What was asked for one page, a failure included, so that nothing is asked for twice."""

    def __init__(self) -> None:
        self.found: dict[str, Vm] = {}
        self.asked: set[str] = set()
        self.failed = False


def known(
    request: HttpRequest, server_ids: Iterable[str], *, all_projects: bool = False
) -> Mapping[str, Vm] | None:
    """Return what is known of instances on one of Horizon's own pages, by their UUIDs.

    :param all_projects: they need not be of the user's project.
    :returns: without those that have no expiration; None: the API does not tell.
    """
    kept: _Kept = request.__dict__.setdefault(_KEPT, _Kept())
    missing = [i for i in dict.fromkeys(server_ids) if i not in kept.asked]
    if missing and not kept.failed:
        kept.asked.update(missing)
        try:
            kept.found.update({vm.id: vm for vm in _list(request, missing, all_projects)})
        except Exception as error:  # noqa: BLE001 - whatever it is, the page is Horizon's
            LOG.warning("Instances are shown without their expiration: %s", error)
            kept.failed = True
    return None if kept.failed else kept.found


def _list(request: HttpRequest, server_ids: Sequence[str], all_projects: bool) -> Iterator[Vm]:
    vms = client(request, settings.get("instances_timeout")).vm_expirations
    with asking():
        for first in range(0, len(server_ids), _MOST_NAMED):
            named = server_ids[first : first + _MOST_NAMED]
            for answer in vms.list(server_ids=named, all_projects=all_projects):
                yield Vm.of(answer)
