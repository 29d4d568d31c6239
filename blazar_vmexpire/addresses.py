# SPDX-License-Identifier: Apache-2.0
"""Mail addresses: which text is one.

What Keystone holds as a user's ``email`` is whatever somebody typed there. One plain address is
taken, and nothing else is guessed at:

- Exactly ``local@domain``. No display name, angle brackets, comment, group or list: two people in
  one field would be two recipients of one notice, of which the mail server can refuse half.
- The local part is a dot-atom of RFC 5322. A quoted one is legal and can hold anything, spaces and
  ``@`` included; nobody has one, and much software on the way takes it apart wrongly.
- ASCII only. A non-ASCII local part needs SMTPUTF8 on every server on the way. A non-ASCII domain
  has to be given in its ASCII form (``xn--…``), as there are two ways to make that, and they lead
  to different domains.
- A domain of one label (``root@localhost``) is fine: the operator's relay may know it. An address
  literal (``user@[192.0.2.1]``) is not.
- Spaces and tabulators around the address are dropped; a line break anywhere is refused.
"""

from __future__ import annotations

import functools
import re
from email.headerregistry import Address, AddressHeader
from email.policy import SMTP

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?P<domain>{_LABEL}(?:\.{_LABEL})*)")

#: RFC 5321, 4.5.3.1, in octets; a path of 256 has two angle brackets.
_LOCAL_LIMIT = 64
_ADDRESS_LIMIT = 254


class BadAddress(ValueError):
    """A text is not a mail address that notices can be sent to; the message says why."""


def parse_recipient(text: str) -> str:
    """Read exactly one plain mail address.

    :raises BadAddress: for anything else; see this module's description for what that is.
    """
    address = text.strip(" \t")
    shown = ascii(address if len(address) <= 80 else f"{address[:80]}…")
    if not address:
        raise BadAddress("the mail address is empty")
    if not address.isascii():
        raise BadAddress(
            f"{shown} is not a usable mail address: it has characters that are not ASCII"
            " (write an internationalised domain in its xn-- form)"
        )
    if len(address) > _ADDRESS_LIMIT:
        raise BadAddress(
            f"{shown} is not a usable mail address: it has {len(address)} characters,"
            f" and {_ADDRESS_LIMIT} are the most"
        )
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise BadAddress(
            f"{shown} is not a usable mail address:"
            " write one plain address such as alice@example.org, without a name or brackets"
        )
    if len(match["local"]) > _LOCAL_LIMIT:
        raise BadAddress(
            f"{shown} is not a usable mail address: before the @ it has {len(match['local'])}"
            f" characters, and {_LOCAL_LIMIT} are the most"
        )
    return address


@functools.lru_cache(maxsize=8)
def parse_sender(text: str) -> Address:
    """Read the sender of the notices: a plain address, or ``Name <address>``.

    :raises BadAddress: for anything else.
    """
    if any(character in text for character in "\r\n"):
        raise BadAddress(f"{text!a} is not one sender: it has a line break")
    header = SMTP.header_factory("From", text)
    defects = header.defects
    if defects or not isinstance(header, AddressHeader) or len(header.addresses) != 1:
        # A plain address says better what is wrong with it.
        return Address(addr_spec=parse_recipient(text))
    (sender,) = header.addresses
    if len(header.groups) != 1 or header.groups[0].display_name is not None:
        raise BadAddress(f"{text!a} is not one sender but a group")
    return Address(sender.display_name, addr_spec=parse_recipient(sender.addr_spec))
