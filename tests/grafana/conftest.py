"""The fixtures of the integration tests that are used here, too."""

from tests.integration.conftest import need, pytest_runtest_makereport

__all__ = ["need", "pytest_runtest_makereport"]
