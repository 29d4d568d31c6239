# SPDX-License-Identifier: Apache-2.0
"""The commands."""

from __future__ import annotations

import warnings

# Said by a library of Blazar's where eventlet happens to be installed; it is not used.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
