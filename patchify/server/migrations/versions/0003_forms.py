"""In which forms releases can be had."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the column."""
    op.add_column("releases", sa.Column("forms", sa.Text, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Remove the column: the forms are made anew another time."""
    op.drop_column("releases", "forms")
