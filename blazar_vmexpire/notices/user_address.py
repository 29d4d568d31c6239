# SPDX-License-Identifier: Apache-2.0
"""The mail address of a user: the one that Keystone holds, or one made by a template."""

from __future__ import annotations

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from blazar_vmexpire import words
from blazar_vmexpire.addresses import BadAddress, parse_recipient
from blazar_vmexpire.cloud.keystone import User

#: What a template can use.
NAMES = ("name", "id", "domain_id", "unique_id", "user")


class UserAddress:
    """Says the mail address of a user.

    :param template: ``mail_address_template``, for users for whom Keystone holds none; None where
        these have none.
    :raises ValueError: it is no template, or asks for what there is not.
    """

    def __init__(self, template: str | None) -> None:
        self._template = None if template is None else _read(template)

    def of(self, user: User) -> str:
        """Say a user's mail address.

        :raises BadAddress: there is none.
        """
        if user.email or self._template is None:
            return parse_recipient(user.email or "")
        known = {
            "name": user.name,
            "id": user.id,
            "domain_id": user.domain_id,
            "user": user.attributes,
        }
        if user.unique_id is not None:
            known["unique_id"] = user.unique_id
        try:
            text = self._template.render(known)
        except Exception as error:
            # Whatever it is that a template does with what a user has, or has not.
            said = words.one_line(str(error)) or type(error).__name__
            raise BadAddress(f"mail_address_template makes none: {said}") from error
        return parse_recipient(text)


def _read(template: str) -> jinja2.Template:
    # What a user is called is up to them; what is done with it is not.
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        unknown = jinja2.meta.find_undeclared_variables(environment.parse(template)) - {*NAMES}
        if unknown:
            raise ValueError(
                f"{template!r} asks for {', '.join(sorted(unknown))}: what it can use is"
                f" {', '.join(NAMES)}"
            )
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ValueError(f"{template!r} is not a Jinja2 template: {error}") from error
