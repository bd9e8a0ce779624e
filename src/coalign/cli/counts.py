"""Whole numbers of flags that no configuration class describes."""

from __future__ import annotations

import click

from coalign.core.limits import LARGEST

COUNT = click.IntRange(1, LARGEST)
COUNT_OR_ZERO = click.IntRange(0, LARGEST)
