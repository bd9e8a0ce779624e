"""The command line in this process, as tests of `cli` have it."""

from tests.cli.conftest import coalign as coalign
