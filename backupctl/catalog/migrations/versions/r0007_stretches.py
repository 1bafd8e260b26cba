"""Who stores which stretch of a source that several workers share."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "stretches",
        sa.Column("plan", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("run", sa.String(length=36), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("hand", sa.String(length=36), nullable=False),
        sa.Column("hand_epoch", sa.Integer(), nullable=False),
        sa.Column("taken", sa.DateTime(timezone=True), nullable=True),
        sa.Column("record", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("plan", "number"),
    )


def downgrade() -> None:
    op.drop_table("stretches")
