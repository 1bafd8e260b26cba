"""Notices that wait: to be tried again, for room under a limit, or for somebody to acknowledge them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("notices", sa.Column("event", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("notices", sa.Column("alarm", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("notices", sa.Column("state", sa.String(length=16), nullable=False, server_default="delivered"))
    op.add_column("notices", sa.Column("attempts", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("notices", sa.Column("next_try", sa.DateTime(timezone=True), nullable=True))
    op.add_column("notices", sa.Column("last_sent", sa.DateTime(timezone=True), nullable=True))
    op.add_column("notices", sa.Column("repeats", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("notices", sa.Column("acknowledged", sa.DateTime(timezone=True), nullable=True))
    op.add_column("notices", sa.Column("acknowledged_by", sa.Text(), nullable=False, server_default=""))
    op.execute("UPDATE notices SET state = 'failed' WHERE delivered IS NULL")
    op.create_index("notices_by_state", "notices", ["state"])


def downgrade() -> None:
    op.drop_index("notices_by_state", "notices")
    for column in (
        "acknowledged_by",
        "acknowledged",
        "repeats",
        "last_sent",
        "next_try",
        "attempts",
        "state",
        "alarm",
        "event",
    ):
        op.drop_column("notices", column)
