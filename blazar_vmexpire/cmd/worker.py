# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-worker``: the work on VMs as a service of its own, beside blazar-manager.

Any number of them share the work, on any host that reaches Blazar's database, the message bus, the
cloud and the mail server. They read Blazar's configuration.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

import blazar.config  # noqa: F401  (registers Blazar's options, its account's and its database's)
from keystoneauth1 import exceptions as ksa_exceptions
from oslo_config import cfg
from oslo_db import exception as oslo_db_exception
from oslo_log import log as logging
from sqlalchemy import exc as sa_exc

from blazar_vmexpire.conf import opts
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.service import Service, prepare

LOG = logging.getLogger(__name__)

_STOP = {signal.SIGTERM, signal.SIGINT}
_SIGNALS = {*_STOP, signal.SIGHUP}

#: What keeps it from starting, and is the surroundings' fault, not the program's.
_CANNOT_START = (
    ConfigError,
    cfg.Error,
    ksa_exceptions.ClientException,
    oslo_db_exception.DBError,
    sa_exc.SQLAlchemyError,
)


def main(arguments: Sequence[str] | None = None, conf: cfg.ConfigOpts = cfg.CONF) -> int:
    """Run until SIGTERM or SIGINT comes. SIGHUP reads mutable options again.

    :param arguments: without the program's name; None for those it was called with.
    :returns: the exit status: 0, or 1 when it could not start.
    """
    # They are waited for below. Threads that are started from now on leave them alone, too.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        opts.register_opts(conf)
        conf(arguments, project="blazar", prog="blazar-vmexpire-worker")
        logging.setup(conf, "blazar-vmexpire")
        service = Service(prepare(conf))
        service.start()
    except _CANNOT_START as error:
        sentence = f"blazar-vmexpire-worker cannot start: {' '.join(str(error).split())}"
        LOG.critical(sentence)
        print(sentence, file=sys.stderr)
        return 1
    while (received := signal.sigwait(_SIGNALS)) not in _STOP:
        _reload(conf, arguments)
    LOG.info("%s: the steps in hand are finished, no other is begun", signal.Signals(received).name)
    service.stop()
    LOG.info("Stopped")
    return 0


def _reload(conf: cfg.ConfigOpts, arguments: Sequence[str]) -> None:
    try:
        _try_reading(arguments)
        conf.mutate_config_files()
    except (cfg.Error, ConfigError) as error:
        LOG.error("SIGHUP: the configuration is left as it was: %s", error)
    else:
        LOG.info("SIGHUP: mutable options were read again")


def _try_reading(arguments: Sequence[str]) -> None:
    """Read all our options as a new process would: what is read again is believed unseen.

    :raises cfg.Error: a file cannot be read.
    :raises ConfigError: one of them is wrong.
    """
    trial = cfg.ConfigOpts()
    logging.register_options(trial)
    opts.register_opts(trial)
    trial(arguments, project="blazar", prog="blazar-vmexpire-worker")
    opts.check_values(trial)


if __name__ == "__main__":
    sys.exit(main())
