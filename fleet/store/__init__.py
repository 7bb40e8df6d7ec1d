"""The controller's database: schema, migrations, and one module of statements a concept."""

from fleet.store.database import Store

__all__ = ["Store"]
