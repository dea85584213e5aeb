"""What is held among many requests: an index of those alone that something holds."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """The index."""
    held = sa.text("held_at is not null")
    op.create_index("requests_held", "requests", ["line", "id"], sqlite_where=held, postgresql_where=held)
