# Written by `sandbox up`, which writes it anew each time.
import os

from horizon.utils import secret_key
# Horizon takes every name from here that does not begin like this one.
from openstack_dashboard.local import enabled as _enabled

# Elsewhere the plug-in's files are copied into this package, openstack_dashboard/local/enabled.
_enabled.__path__.append("${enabled}")

DEBUG = False
SECRET_KEY = secret_key.generate_or_read_from_file("${etc}/horizon/secret_key")
WEBROOT = "/"
ALLOWED_HOSTS = ["${host}", "localhost"]
TIME_ZONE = "UTC"

STATIC_ROOT = os.environ["SANDBOX_STATIC"]
COMPRESS_OFFLINE = True

SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

OPENSTACK_KEYSTONE_URL = "${auth_url}"
OPENSTACK_KEYSTONE_MULTIDOMAIN_SUPPORT = True
OPENSTACK_KEYSTONE_DOMAIN_DROPDOWN = True
OPENSTACK_KEYSTONE_DOMAIN_CHOICES = ${domains}

# Neutron's server has no agents, and no service plug-ins.
OPENSTACK_NEUTRON_NETWORK = {
    "enable_router": False,
    "enable_quotas": False,
    "enable_fip_topology_check": False,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"blazar_vmexpire": {"level": "INFO"}},
}
