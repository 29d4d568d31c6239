# SPDX-License-Identifier: Apache-2.0
"""Serve one of the services' WSGI applications: wsgi.py MODULE PORT (run by the venv's python)."""

from __future__ import annotations

import importlib
import os
import sys


def load(module: str):
    """Import MODULE and return its `application`."""
    # Some of these modules parse the command line while they are imported.
    sys.argv = [module.partition(".")[0] + "-api"]
    if module.startswith("cinder."):
        # It reads no such variable as the others do, but just this option.
        sys.argv += ["--config-file", f"{os.environ['OS_CINDER_CONFIG_DIR']}/cinder.conf"]
    if module.startswith("openstack_dashboard."):
        return with_static_files(importlib.import_module(module).application)
    if not module.startswith("neutron."):
        return importlib.import_module(module).application
    # A relationship that only a service plug-in's model completes is asked for by an ML2-only
    # server too: load every model, and resolve them before the first request does it by halves.
    importlib.import_module("neutron.db.migration.models.head")
    application = importlib.import_module(module).application
    importlib.import_module("sqlalchemy.orm").configure_mappers()
    return application


def with_static_files(application):
    """Horizon's application, and the files that a web server before it would serve."""
    from django.conf import settings
    from whitenoise import WhiteNoise

    return WhiteNoise(application, root=settings.STATIC_ROOT, prefix=settings.STATIC_URL)


def main() -> None:
    module, port = sys.argv[1], int(sys.argv[2])
    application = load(module)
    import waitress

    waitress.serve(
        application,
        host="127.0.0.1",
        port=port,
        threads=8,
        ident=None,
        max_request_body_size=1 << 34,
    )


if __name__ == "__main__":
    main()
