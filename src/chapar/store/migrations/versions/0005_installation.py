"""The installation: the generation of the database, and up to where its queue is held."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    installation = op.create_table(
        "installation",
        sa.Column("id", sa.SmallInteger, primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("held_up_to", sa.BigInteger),
    )
    op.bulk_insert(installation, [{"id": 1, "generation": 0}])


def downgrade() -> None:
    op.drop_table("installation")
