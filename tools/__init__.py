# SPDX-License-Identifier: Apache-2.0
"""Tools of the checkout; nothing here is installed."""
