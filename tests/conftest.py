"""What holds for all tests."""

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("popproxy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("popproxy")

_START_PROGRAMS = ("tests/integration/", "tests/run/", "tests/grafana/", "tests/state/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start programs go first: at the end of a run, only quick ones are left for who is free."""
    items.sort(key=lambda item: not item.nodeid.startswith(_START_PROGRAMS))
