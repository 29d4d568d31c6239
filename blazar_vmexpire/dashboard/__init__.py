# SPDX-License-Identifier: Apache-2.0
"""The expiration of instances in Horizon, the dashboard of OpenStack: a Django application.

All that it shows and does it asks of our API, with the token of the user who is logged in; who may
do what is for the API to say. ``enabled`` has the files that an operator copies into Horizon.
"""
