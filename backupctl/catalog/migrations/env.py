"""Alembic's entry: runs the revisions on the connection (and in the transaction) that `migrate` hands over."""

from alembic import context

from backupctl.catalog.models import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
