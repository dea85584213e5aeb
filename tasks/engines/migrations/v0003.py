"""The inbox of many requests: an index by state and deadline."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """The index."""
    op.create_index("requests_by_deadline", "requests", ["state", "deadline_at", "id"])
