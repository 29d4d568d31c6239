# SPDX-License-Identifier: Apache-2.0
"""``openstack vm expiration``: a plug-in of the OpenStack client."""
