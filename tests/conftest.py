"""What tests of several rooms share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # no test asserts a time
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data sets; tests that need it skip where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SEEPAGE_DATA", beside))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data in {folder}; set SEEPAGE_DATA to the folder that holds it")
    return folder
