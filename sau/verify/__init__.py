"""Verification: what is left of the forgotten records in a model, measured with controls beside every number."""

import sys

from sau import Room
from sau.verify.battery import verify, verify_each
from sau.verify.policy import Policy, load_policy
from sau.verify.record import Finding, Verification
from sau.verify.trial import Controls

__all__ = ["Controls", "Finding", "Policy", "Verification", "load_policy", "verify", "verify_each"]

sys.modules[__name__].__class__ = Room
