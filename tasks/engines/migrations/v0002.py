"""What a privacy officer decides: law, extension, hold, identity and ground of a request; who and why of an event."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Columns; and a refused request does not stand in the way of the next, so that index is made anew."""
    op.add_column("requests", sa.Column("law", sa.String(), nullable=False, server_default="gdpr"))
    for name in ("extended_at", "held_at"):
        op.add_column("requests", sa.Column(name, sa.DateTime(timezone=True)))
    for name in ("identity_by", "ground"):
        op.add_column("requests", sa.Column(name, sa.String()))
    op.add_column("events", sa.Column("kind", sa.String(), nullable=False, server_default="state"))
    for name in ("actor", "note"):
        op.add_column("events", sa.Column(name, sa.String()))
    standing = sa.text("state not in ('withdrawn', 'refused')")
    op.drop_index("one_request_per_subject", "requests")
    op.create_index(
        "one_request_per_subject",
        "requests",
        ["line", "subject_id"],
        unique=True,
        sqlite_where=standing,
        postgresql_where=standing,
    )
    op.create_index("requests_in_order", "requests", ["line", "state", "received_at", "id"])
    op.create_index("ix_events_request_id", "events", ["request_id"])
