# SPDX-License-Identifier: Apache-2.0
"""What the sandbox raises."""

from __future__ import annotations


class SandboxError(Exception):
    """The sandbox cannot do what was asked; the message says why, and what would help."""
