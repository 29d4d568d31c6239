# SPDX-License-Identifier: Apache-2.0
"""The rules file: which VMs expire on other terms than the options say, or not at all.

Nothing here knows the database, Nova or the options: facts about a VM and the terms that the
options give go in, a decision comes out.
"""

from blazar_vmexpire.rules.book import Decision, Rule, Rules
from blazar_vmexpire.rules.errors import Problem, RulesError
from blazar_vmexpire.rules.loading import load, parse
from blazar_vmexpire.rules.mailing import NOBODY, Contact, Copy, Mailing, Way
from blazar_vmexpire.rules.matching import Subject

__all__ = [
    "NOBODY",
    "Contact",
    "Copy",
    "Decision",
    "Mailing",
    "Problem",
    "Rule",
    "Rules",
    "RulesError",
    "Subject",
    "Way",
    "load",
    "parse",
]
