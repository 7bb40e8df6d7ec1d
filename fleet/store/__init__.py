"""The controller's database: schema, migrations, and one module of statements a concept.

Not here: decisions, and anything that is not in the database: who calls decides.
"""

from fleet.store.database import Store

__all__ = ["Store"]
