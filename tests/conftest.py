"""Fixtures that come from modules; one name per line."""

pytest_plugins = [
    "tests.order",
    "tests.own_cache",
    "tests.own_secrets",
    "tests.servers.plugin_databases",
    "tests.servers.plugin_rgw",
    "tests.servers.plugin_sshd",
]
