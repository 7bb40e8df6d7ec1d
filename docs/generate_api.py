"""The page of the HTTP API, from its OpenAPI document.

The site's build calls this: there is no file to go stale. ``python docs/generate_api.py`` prints
it.
"""

from __future__ import annotations

import sys
from typing import Any

HEAD = """# HTTP API

Made from the OpenAPI document when the site is built; a controller serves that at
`/v1/openapi.json`. Requests carry `Authorization: Bearer TOKEN`
([tokens](how-to/tokens.md)); bodies and answers are JSON. Errors have
[one shape](protocol.md#errors) and [stable codes](troubleshooting.md). A change may carry an
`Idempotency-Key`; lists are paged by `cursor`.

`/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings` and `/v1/models` are
for OpenAI's clients; the model is a selector.
"""


def render() -> str:
    """The whole page."""
    from fastapi import FastAPI

    from fleet.api import app as api

    application = FastAPI(title="Shoal fleet", version="1", generate_unique_id_function=_name)
    for module in vars(api).values():
        router = getattr(module, "ROUTER", None)
        if router is not None:
            application.include_router(router)
    document = application.openapi()
    parts = [HEAD]
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(_operation(path, method, operation, document))
    for tag, operations in groups.items():
        parts.append(f"\n## {tag.capitalize()}\n\n" + "\n".join(operations))
    return "".join(parts)


def _name(route: Any) -> str:
    return str(route.name)


def _operation(path: str, method: str, operation: dict[str, Any], document: Any) -> str:
    text = str(operation.get("description") or operation.get("summary") or "").strip()
    lines = [f"### {method.upper()} {path}\n", text.split("\nRaises:")[0].strip(), ""]
    rows = [
        f"| `{one['name']}` | {one['in']} | {'yes' if one.get('required') else 'no'} |"
        for one in operation.get("parameters", [])
    ]
    content = operation.get("requestBody", {}).get("content", {})
    for kind in content.values():
        name = kind.get("schema", {}).get("$ref", "").rsplit("/", 1)[-1]
        schema = document.get("components", {}).get("schemas", {}).get(name, {})
        required = set(schema.get("required", []))
        rows += [
            f"| `{key}` | body | {'yes' if key in required else 'no'} |"
            for key in schema.get("properties", {})
        ]
    if rows:
        lines += ["| field | in | required |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(render())
