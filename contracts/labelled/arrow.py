"""Parquet and Arrow files as records, with the names of labels where the file knows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.errors import InputError, UnavailableError
from contracts.labelled.documents import cells_of
from contracts.labelled.rows import Log, Record


def rows_of(path: Path, log: Log) -> Iterator[Record]:
    """The rows of a .parquet, .arrow or .feather file.

    Raises:
        InputError: ``bad-data``.
        UnavailableError: ``no-pyarrow``.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise UnavailableError(
            "no-pyarrow",
            "reading Parquet and Arrow needs pyarrow: pip install 'shoal[builder]'",
        ) from None
    kind = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
    number, names = 0, _names_beside(path)
    try:
        schema, batches = _opened(path, kind)
        names.update(_names((schema.metadata or {}).get(b"huggingface", b"{}")))
        if names:
            log.note(f"the names of labels stand in {path.name}: {', '.join(names)}")
        for batch in batches:
            for record in batch.to_pylist():
                number += 1
                for column in names.keys() & record.keys():
                    record[column] = _named(record[column], names[column])
                yield f"row {number}", cells_of(record)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError("bad-data", f"{path} is not {kind}: {str(error)[:200]}") from None


def _opened(path: Path, kind: str) -> tuple[Any, Iterator[Any]]:
    """The schema and the batches of a file; Arrow's is a stream or a file of its format."""
    import pyarrow
    import pyarrow.parquet as parquet

    if kind == "Parquet":
        table = parquet.ParquetFile(path)
        return table.schema_arrow, table.iter_batches(batch_size=4096)
    source = pyarrow.memory_map(str(path))
    try:
        stream = pyarrow.ipc.open_stream(source)
    except pyarrow.ArrowInvalid:
        file = pyarrow.ipc.open_file(source)
        return file.schema, (file.get_batch(index) for index in range(file.num_record_batches))
    return stream.schema, iter(stream)


def _names_beside(path: Path) -> dict[str, list[str]]:
    """Of a data set that was saved to a folder: what ``dataset_info.json`` says."""
    try:
        return _names(
            json.dumps({"info": json.loads((path.parent / "dataset_info.json").read_bytes())})
        )
    except (OSError, ValueError):
        return {}


def _names(described: bytes | str) -> dict[str, list[str]]:
    """By column: the names that its numbers stand for, as Hugging Face's ClassLabel has them."""
    try:
        features = json.loads(described)["info"]["features"].items()
        found = {column: feature.get("feature", feature) for column, feature in features}
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in found.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return names[value] if 0 <= value < len(names) else None
