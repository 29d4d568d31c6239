# SPDX-License-Identifier: Apache-2.0
"""The commands, one module for each kind of thing that they are about."""
