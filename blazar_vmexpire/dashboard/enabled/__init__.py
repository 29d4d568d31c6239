# SPDX-License-Identifier: Apache-2.0
"""What an operator copies into ``openstack_dashboard/local/enabled``."""
