"""The releases, their places in channels, and the revision of the catalogue."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, and the row of the revision."""
    op.create_table(
        "catalogue",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "releases",
        sa.Column("version", sa.String(256), primary_key=True),
        sa.Column("platform", sa.String(40), primary_key=True),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("published", sa.BigInteger),
        sa.Column("critical", sa.Boolean, nullable=False),
        sa.Column("floor", sa.String(256)),
    )
    op.create_table(
        "placements",
        sa.Column("version", sa.String(256), primary_key=True),
        sa.Column("platform", sa.String(40), primary_key=True),
        sa.Column("channel", sa.String(40), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("seed", sa.String(64), nullable=False),
        sa.Column("pause_above", sa.Integer),
        sa.Column("pause_after", sa.Integer, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["version", "platform"], ["releases.version", "releases.platform"], ondelete="CASCADE"),
    )
    op.execute("INSERT INTO catalogue (id, revision) VALUES (1, 1)")


def downgrade() -> None:
    """Remove the tables."""
    for table in ("placements", "releases", "catalogue"):
        op.drop_table(table)
