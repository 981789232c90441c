"""A message names its sender, what is on its way is in one index alone, and the trail of SQLite needs none by time."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SENDERS = """
    UPDATE messages SET sent_by = (
        SELECT principal FROM audit
        WHERE audit.at = messages.created_at AND audit.subject = messages.id AND audit.action = 'message_sent'
        ORDER BY seq LIMIT 1
    )
    WHERE status IN ('scheduled', 'queued', 'publishing')
"""
_HOURS = """
    INSERT INTO audit_hours (hour, first)
    SELECT hour, seq FROM (SELECT seq, at / 3600000 AS hour, lag(at / 3600000) OVER (ORDER BY seq) AS before FROM audit)
    WHERE hour IS NOT before
"""
# An entry begins an hour unless the one before it, whose number may be any lower one, is of the same hour.
_BEGIN_HOUR = """
    CREATE TRIGGER audit_begins_hour AFTER INSERT ON audit
    WHEN NEW.at / 3600000 IS NOT (SELECT at / 3600000 FROM audit WHERE seq < NEW.seq ORDER BY seq DESC LIMIT 1)
    BEGIN INSERT INTO audit_hours (hour, first) VALUES (NEW.at / 3600000, NEW.seq); END
"""


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.add_column("messages", sa.Column("sent_by", sa.Text))
    op.execute(_SENDERS)
    _exchange_indexes(status_seq="status <> 'publishing'", unfinished="finished_at IS NULL", by_status=True)
    if not is_sqlite:
        return
    op.drop_index("ix_audit_at", "audit")
    op.create_table(
        "audit_hours",
        sa.Column("hour", sa.Integer, primary_key=True),
        sa.Column("first", sa.Integer, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.execute(_HOURS)
    op.execute(_BEGIN_HOUR)
    for change in ("update", "delete"):
        op.execute(
            f"CREATE TRIGGER audit_hours_refuse_{change} BEFORE {change} ON audit_hours "
            "BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END"
        )
    _rewrite_table_of_audit(" PRIMARY KEY AUTOINCREMENT", " PRIMARY KEY")
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'audit'")


def _exchange_indexes(*, status_seq: str | None, unfinished: str, by_status: bool) -> None:
    op.drop_index("ix_messages_status_seq", "messages")
    op.drop_index("ix_messages_unfinished", "messages")
    where = None if status_seq is None else sa.text(status_seq)
    op.create_index("ix_messages_status_seq", "messages", ["status", "seq"], sqlite_where=where, postgresql_where=where)
    columns = ["status", "imei", "seq"] if by_status else ["imei", "seq"]
    where = sa.text(unfinished)
    op.create_index("ix_messages_unfinished", "messages", columns, sqlite_where=where, postgresql_where=where)


def _rewrite_table_of_audit(old: str, new: str) -> None:
    """Change how the table is declared, in a way that changes nothing in its pages: no row is written.

    https://sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema Changes", the second procedure.
    """
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = 'audit'", (old, new)
    )
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _rewrite_table_of_audit(" PRIMARY KEY", " PRIMARY KEY AUTOINCREMENT")
        op.execute("INSERT INTO sqlite_sequence (name, seq) SELECT 'audit', coalesce(max(seq), 0) FROM audit")
        op.execute("DROP TRIGGER audit_begins_hour")
        op.drop_table("audit_hours")
        op.create_index("ix_audit_at", "audit", ["at"])
    _exchange_indexes(status_seq=None, unfinished="status IN ('scheduled', 'queued', 'publishing')", by_status=False)
    op.drop_column("messages", "sent_by")
