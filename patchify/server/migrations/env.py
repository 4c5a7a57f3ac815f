"""Run by Alembic for each command, on the connection that `patchify.server.migration` gives it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
