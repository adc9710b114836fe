"""The demonstration: one small ResNet plain, with SE and with SGE, trained side by side, and a report to read."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgenet.demo.result import DemoResult as DemoResult
    from sgenet.demo.running import run_demo as run_demo

_HOME = {"DemoResult": "result", "run_demo": "running"}

__all__ = ["DemoResult", "run_demo"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"module 'sgenet.demo' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"sgenet.demo.{_HOME[name]}"), name)
