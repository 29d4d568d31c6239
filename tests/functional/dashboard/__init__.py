# SPDX-License-Identifier: Apache-2.0
"""Tests of what Horizon shows: Horizon's own helpers, and our API over HTTP."""
