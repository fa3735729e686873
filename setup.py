# All metadata is in pyproject.toml; this file is for tools that still expect a setup.py.
from __future__ import annotations

from setuptools import setup

setup()
