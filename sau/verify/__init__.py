"""Verification: what is left of the forgotten records in a model, measured with controls beside every number."""

from sau.verify.battery import verify, verify_each
from sau.verify.policy import Policy, load_policy
from sau.verify.record import Finding, Verification

__all__ = ["Finding", "Policy", "Verification", "load_policy", "verify", "verify_each"]
