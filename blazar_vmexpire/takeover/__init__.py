# SPDX-License-Identifier: Apache-2.0
"""Taking over the ends that VMs have in another system, whose users move here.

``ends`` says what becomes of each VM; the other modules read where the ends come from.
"""
