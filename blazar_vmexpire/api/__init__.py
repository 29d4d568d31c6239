# SPDX-License-Identifier: Apache-2.0
"""Our REST API: its routes run inside blazar-api, its rules are applied by blazar-manager."""
