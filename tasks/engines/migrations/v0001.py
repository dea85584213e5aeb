"""The ledger as it was before it had revisions: requests, and their changes of state."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: what is there was made by that version."""
