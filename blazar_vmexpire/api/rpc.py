# SPDX-License-Identifier: Apache-2.0
"""What our API asks of blazar-manager."""

from __future__ import annotations

from typing import Any

import oslo_messaging
from blazar import manager
from blazar.utils import service

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.api.errors import GenerationMoved, Unavailable


class ManagerRPCAPI(service.RPCClient):  # type: ignore[misc]
    """Asks the plug-in, in the context of the request that is being answered."""

    def __init__(self) -> None:
        super().__init__(manager.get_target())

    def ask(self, request: str, **arguments: Any) -> Any:
        """Have something done, and return what is told of it.

        :param request: a method of :class:`blazar_vmexpire.api.serving.Serving`.
        :raises GenerationMoved: the VM's expiration is not the one that is meant.
        :raises Unavailable: there was no answer within ``[DEFAULT] rpc_response_timeout``.
        :raises oslo_messaging.RemoteError: what else the manager raised, by the name of its class.
        """
        try:
            return self.call(f"{RESOURCE_TYPE}:serve", request=request, arguments=arguments)
        except oslo_messaging.RemoteError as error:
            if error.exc_type == GenerationMoved.__name__:
                raise GenerationMoved(error.value) from error
            raise
        except oslo_messaging.MessagingTimeout as error:
            raise Unavailable(
                "blazar-manager did not answer in time; it may still do what was asked"
            ) from error
        except oslo_messaging.MessageDeliveryFailure as error:
            raise Unavailable("blazar-manager cannot be reached") from error
