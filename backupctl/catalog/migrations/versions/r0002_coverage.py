"""What a check knows about when every byte was read."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("checks", sa.Column("coverage", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("checks", "coverage")
