"""The command line of the library: verify, export, restore, and the recipe's stages."""

from sau.cli import models, stage, verify
from sau.cli.app import app, main

__all__ = ["app", "main", "models", "stage", "verify"]
