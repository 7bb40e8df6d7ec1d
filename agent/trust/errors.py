"""python-tuf's errors as refusals that name the attack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from contracts.errors import RefusedError

_MOST_OF_A_NAME: Final = 100


def endless(path: str, cap: int) -> RefusedError:
    """More bytes than a file may have."""
    return RefusedError("endless-data", f"{path[:300]} is larger than the {cap} bytes it may have")


@contextmanager
def named(role: str, *, delegated: bool = False) -> Iterator[None]:
    """Turns python-tuf's errors into refusals that name the attack.

    Args:
        role: whose metadata is read.
        delegated: it is a role that the targets role, or one below it, delegates to.
    """
    from tuf.api import exceptions as tuf

    what = f"{role[:_MOST_OF_A_NAME]}.json"
    try:
        yield
    except tuf.EqualVersionNumberError:
        raise
    except tuf.ExpiredMetadataError as error:
        if delegated:
            raise RefusedError(
                "expired", f"{what} is expired: its publisher must sign it anew"
            ) from None
        code = "freeze" if "timestamp" in str(error) or "snapshot" in str(error) else "expired"
        raise RefusedError(code, f"{error}: the fleet's controller must sign it anew") from None
    except tuf.LengthOrHashMismatchError as error:
        raise RefusedError(
            "mix-and-match", f"{what} does not belong to the signed state: {str(error)[:300]}"
        ) from None
    except tuf.BadVersionNumberError as error:
        code = {"root": "wrong-root", "timestamp": "rollback", "snapshot": "rollback"}.get(
            "" if delegated else role, "mix-and-match"
        )
        raise RefusedError(code, f"{what}: {str(error)[:300]}") from None
    except tuf.UnsignedMetadataError as error:
        code = "wrong-root" if role == "root" and not delegated else "wrong-signature"
        raise RefusedError(code, f"{what}: {str(error)[:300]}") from None
    except tuf.RepositoryError as error:
        raise RefusedError("bad-metadata", f"{what}: {str(error)[:300]}") from None
