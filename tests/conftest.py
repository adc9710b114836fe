"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# Tests run in several processes beside each other; a pool of threads in each would only make them wait for one another.
# Set before torch is imported, and in the environment, so that programs that a test starts compute alike.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does: a timing is never a test.
settings.register_profile("sgenet", deadline=None)
settings.load_profile("sgenet")

# With --doctest-modules these would be collected as modules, and several of one name cannot be.
collect_ignore_glob = ["*conftest.py"]
