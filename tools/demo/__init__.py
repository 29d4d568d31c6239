# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the life of one VM on a real cloud, lived in front of the reader.

__main__.py   arguments, the cloud's coming and going, the exit code
story.py      the steps
course.py     steps with several VMs of one owner
real.py       more steps, where the VM is a real guest
scene.py      what the steps share: the VM, its lease, and what the services say of them
checks.py     what a step has to find, else the demonstration has failed
accounts.py   commands and requests as one of the cloud's accounts
mailbox.py    the mails that arrived
waiting.py    waiting that is seen
narrator.py   what the reader sees
timing.py     how long each step took
terms.py      terms of minutes, dates, ports
"""
