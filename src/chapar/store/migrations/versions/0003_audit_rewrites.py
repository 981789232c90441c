"""The audit trail refuses REPLACE and numbers of the past on SQLite, and every session of PostgreSQL is refused."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# REPLACE removes the old row without asking the DELETE trigger. A number that is only given out at the insertion is
# unknown before it, so that it is the newest is checked behind it.
_REFUSALS = {
    "audit_refuses_replace": "BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)",
    "audit_refuses_past": (
        "AFTER INSERT ON audit WHEN NEW.seq < 1 OR EXISTS (SELECT 1 FROM audit WHERE seq > NEW.seq)"
    ),
}


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_append_only")  # also for replicas and restorers
        return
    for name, when in _REFUSALS.items():
        op.execute(f"CREATE TRIGGER {name} {when} BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE audit ENABLE TRIGGER audit_is_append_only")
        return
    for name in _REFUSALS:
        op.execute(f"DROP TRIGGER {name}")
