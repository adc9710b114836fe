"""What holds for every test."""

from __future__ import annotations

import os

# Tests run in several processes beside each other; a pool of threads in each would only make them wait for one another.
# Set before torch is imported, and in the environment, so that programs that a test starts compute alike.
os.environ.setdefault("OMP_NUM_THREADS", "1")
