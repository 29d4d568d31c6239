# SPDX-License-Identifier: Apache-2.0
"""Chaos: VMs expire by the hundred while whatever they depend on is killed and stopped.

``plan`` says what happens when, ``crowd`` has the VMs and their owners, ``faults`` breaks and
mends, ``evidence`` gathers what became of it all, ``verdict`` judges that; ``run`` is the whole.
"""
