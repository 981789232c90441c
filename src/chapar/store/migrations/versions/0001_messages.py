"""The table of messages."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "messages",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(always=True), primary_key=True
        ),
        sa.Column("id", sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql"), nullable=False),
        sa.Column("imei", sa.String(64), nullable=False),
        sa.Column("micro_op", sa.Text, nullable=False),
        sa.Column("params", sa.Text),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("qos", sa.SmallInteger, nullable=False),
        sa.Column("retain", sa.Boolean, nullable=False),
        sa.Column("at_most_once", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("reason_code", sa.SmallInteger),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("possible_duplicate", sa.Boolean, nullable=False),
        sa.Column("subscribers", sa.Boolean),
        sa.Column("claim", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("published_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_messages_id", "messages", ["id"], unique=True)
    op.create_index("ix_messages_imei_id", "messages", ["imei", "id"])
    op.create_index("ix_messages_status_id", "messages", ["status", "id"])
    unfinished = sa.text("status IN ('scheduled', 'queued', 'publishing')")
    op.create_index(
        "ix_messages_unfinished",
        "messages",
        ["imei", "seq"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )


def downgrade() -> None:
    op.drop_table("messages")
