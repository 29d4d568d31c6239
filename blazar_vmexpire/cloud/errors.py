# SPDX-License-Identifier: Apache-2.0
"""What can go wrong when Nova, Glance, Cinder or Keystone is asked something.

There is one class for each thing that a caller can do about it. Exceptions of keystoneauth and
requests are translated into these here at the border; none of them gets any further.
"""

from __future__ import annotations


class CloudError(Exception):
    """A service was asked for something and did not do it.

    :ivar service: ``nova``, ``glance``, ``cinder`` or ``keystone``
    :ivar what: the call in words, such as ``stop server 1234``
    :ivar detail: why, in the words of the service where it said something
    :ivar status: HTTP status of the answer; None when there was no answer
    :ivar request_id: the service's own id of the request, to be found in its log; None if it gave
        none
    """

    def __init__(
        self,
        service: str,
        what: str,
        detail: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        self.service = service
        self.what = what
        self.detail = detail
        self.status = status
        self.request_id = request_id
        message = f"{service}: {what}: "
        if status is not None:
            message += f"{status} "
        message += detail
        if request_id is not None:
            message += f" (request id {request_id})"
        super().__init__(message)


class Unavailable(CloudError):
    """There is no answer that can be trusted: it is evidence of nothing. Try again later.

    No connection, a timeout, a body that is cut short or is not what it must be, 5xx, 429, 401
    (our own credentials do not work at the moment), an endpoint missing from the catalogue, or an
    error that a proxy in front of the service made up. After a call that changes something, it is
    not known whether the change was made.
    """


class NotFound(CloudError):
    """The service itself said 404 about the very thing that was asked for."""


class Conflict(CloudError):
    """The service said 409: the state of the thing does not allow the call now."""


class Refused(CloudError):
    """The service said no (400, 403, 413, …), and will again unless something is changed."""
