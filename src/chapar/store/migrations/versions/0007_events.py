"""The log of changes on both databases: every commit adds a row, which is kept for days."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    # What was in it was kept for a minute, for processes that have ended by now.
    op.drop_table("changes")
    op.create_table(
        "changes",
        sa.Column("seq", _SEQUENCE, sa.Identity(always=True), primary_key=True),
        sa.Column("tx", sa.BigInteger),
        sa.Column("process", sa.String(16)),
        sa.Column("batch", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("moved", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.create_index("ix_changes_tx", "changes", ["tx"])


def downgrade() -> None:
    op.drop_table("changes")
    op.create_table(
        "changes",
        sa.Column("seq", _SEQUENCE, sa.Identity(always=True), primary_key=True),
        sa.Column("tx", sa.BigInteger, nullable=False),
        sa.Column("process", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("moved", sa.Text, nullable=False),
    )
    op.create_index("ix_changes_tx", "changes", ["tx"])
