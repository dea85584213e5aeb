"""The command line of the library: verify, export, restore, certificates, and the recipe's stages."""

from sau.cli import certificate, models, stage, verify
from sau.cli.app import app, main

__all__ = ["app", "certificate", "main", "models", "stage", "verify"]
