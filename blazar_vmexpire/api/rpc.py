# SPDX-License-Identifier: Apache-2.0
"""What our API asks of blazar-manager."""

from __future__ import annotations

from typing import Any

import oslo_messaging
from blazar import exceptions, manager
from blazar.utils import service

from blazar_vmexpire import RESOURCE_TYPE


class ManagerAway(exceptions.BlazarException):  # type: ignore[misc]
    """blazar-manager, or the message bus, does not answer."""

    code = 503


class ManagerRPCAPI(service.RPCClient):  # type: ignore[misc]
    """Calls methods of the plug-in, in the context of the request that is being answered.

    :raises oslo_messaging.RemoteError: what the manager raised, by the name of its class.
    :raises ManagerAway: there was no answer within ``[DEFAULT] rpc_response_timeout``.
    """

    def __init__(self) -> None:
        super().__init__(manager.get_target())

    def extend(self, server_id: str, end_date: str | None) -> dict[str, Any]:
        """Extend a VM; see :meth:`blazar_vmexpire.plugin.VirtualMachinePlugin.extend`."""
        return self._ask("extend", server_id=server_id, end_date=end_date)

    def _ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self.call(f"{RESOURCE_TYPE}:{method}", **arguments)
        except oslo_messaging.MessagingTimeout as error:
            raise ManagerAway(
                "blazar-manager did not answer in time; it may still do what was asked"
            ) from error
        except oslo_messaging.MessageDeliveryFailure as error:
            raise ManagerAway("blazar-manager cannot be reached") from error
        return answer
