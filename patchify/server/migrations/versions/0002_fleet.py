"""What the programs in the field tell."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "fleet_batches",
        sa.Column("batch", sa.String(32), primary_key=True),
        sa.Column("day", sa.Date, nullable=False, index=True),
    )
    op.create_table(
        "fleet_counts",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("version", sa.String(256), primary_key=True),
        sa.Column("platform", sa.String(40), primary_key=True),
        sa.Column("channel", sa.String(40), primary_key=True),
        sa.Column("event", sa.String(16), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_table(
        "fleet_installations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("version", sa.String(256), nullable=False),
        sa.Column("platform", sa.String(40), nullable=False),
        sa.Column("channel", sa.String(40), nullable=False),
        sa.Column("seen", sa.Date, nullable=False, index=True),
        sa.Column("outcome", sa.String(320), nullable=False),
    )
    op.create_table(
        "fleet_outcomes",
        sa.Column("version", sa.String(256), primary_key=True),
        sa.Column("platform", sa.String(40), primary_key=True),
        sa.Column("channel", sa.String(40), primary_key=True),
        sa.Column("changed", sa.String(20), primary_key=True),
        sa.Column("good", sa.Integer, nullable=False, server_default="0"),
        sa.Column("bad", sa.Integer, nullable=False, server_default="0"),
        sa.Column("day", sa.Date, nullable=False, index=True),
    )


def downgrade() -> None:
    """Remove the tables."""
    for table in ("fleet_outcomes", "fleet_installations", "fleet_counts", "fleet_batches"):
        op.drop_table(table)
