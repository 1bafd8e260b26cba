"""What drills measured besides, the evidence of each check, and the secrets of draws to come."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("drills", sa.Column("facts", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("drill_checks", sa.Column("evidence", sa.String(length=64), nullable=False, server_default=""))
    op.create_table(
        "draw_secrets",
        sa.Column("commitment", sa.String(length=64), nullable=False),
        sa.Column("drill", sa.String(length=200), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("commitment"),
    )


def downgrade() -> None:
    op.drop_table("draw_secrets")
    op.drop_column("drill_checks", "evidence")
    op.drop_column("drills", "facts")
