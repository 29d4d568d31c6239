# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what the plug-in talks to, over real sockets."""
