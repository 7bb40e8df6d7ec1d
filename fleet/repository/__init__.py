"""The signed repository of models: The Update Framework (TUF) metadata and content by hash.

One module a concept: :mod:`~fleet.repository.keys` (signing keys on disk),
:mod:`~fleet.repository.paths` (which paths a repository has),
:mod:`~fleet.repository.metadata` (the signed roles and their order of writing),
:mod:`~fleet.repository.repository` (publish, re-sign, read),
:mod:`~fleet.repository.rotation` (new keys, thresholds),
:mod:`~fleet.repository.delta` (patches between versions).

Not here: the database, and who may publish: whoever has the keys may.
"""

from fleet.repository.repository import Repository

__all__ = ["Repository"]
