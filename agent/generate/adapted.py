"""An adapter, loaded: the model that its base is with it.

One base serves many adapters. What an adapter adds is in inputs of the base's signatures; to use
another one is to write those anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.generate.model import Adapted, GenerativeModel
from agent.runtime.model import Options
from contracts.adapter import Adapter
from contracts.answers import CallPiece, Generated, Selftested
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError
from contracts.manifest import Manifest
from contracts.messages import BundleRef
from contracts.requests import GenerateRequest


class AdaptedModel:
    """A base with an adapter: another model, of which the adapter alone takes memory.

    Of the base is used what is loaded of it, one request at a time; it is not freed here.

    Args:
        base: a loaded generator.
        bundle: an adapter; its files are checked against the manifest here.
        owns_base: the base is closed with it.

    Raises:
        RefusedError: ``wrong-base``; it is another bundle's.
        InputError: ``bundle-corrupt``, ``bad-manifest``, ``wrong-base``.
    """

    def __init__(self, base: GenerativeModel, bundle: Bundle, *, owns_base: bool = False) -> None:
        self._owns_base = owns_base
        self.manifest: Manifest = bundle.manifest
        self.ref: BundleRef = bundle.ref
        self.runtime = base.runtime
        own = self.manifest.adapter
        if own is None:
            raise InputError("bad-manifest", f"{bundle.ref} is no adapter")
        base_ref, facts = base.own
        if own.base != base_ref:
            raise RefusedError("wrong-base", f"{self.ref} belongs to {own.base}, not to {base_ref}")
        adapter = Adapter(bundle.read(self.manifest.model.file), own, facts)
        changed = {
            "prompt_prefix": own.prompt_prefix,
            "prompt_suffix": own.prompt_suffix,
            "grammar": own.grammar,
        }
        given = {key: value for key, value in changed.items() if value is not None}
        # What was calibrated are the base's answers.
        facts = msgspec.structs.replace(facts, calibration=[], **given)
        self._adapted = Adapted(self.ref, facts, adapter)
        self._base = base

    def generate(
        self,
        request: GenerateRequest,
        emit: Callable[[str], None] = lambda piece: None,
        checkpoint: Callable[[], None] = lambda: None,
        *,
        tell: Callable[[CallPiece], None] = lambda piece: None,
    ) -> Generated:
        """As :meth:`GenerativeModel.generate`."""
        return self._base.generate(request, emit, checkpoint, adapted=self._adapted, tell=tell)

    def probe(self) -> None:
        """As :meth:`GenerativeModel.probe`."""
        self._base.probe()

    def warm_up(self) -> None:
        """As :meth:`GenerativeModel.warm_up`."""
        self._base.warm_up(adapted=self._adapted)

    def selftest(self, bundle: Bundle, checkpoint: Callable[[], None] = lambda: None) -> Selftested:
        """As :meth:`GenerativeModel.selftest`, of the adapter's golden vectors."""
        return self._base.selftest(bundle, checkpoint, adapted=self._adapted)

    def close(self) -> None:
        """The base stays, unless it was loaded for this adapter alone."""
        if self._owns_base:
            self._base.close()


def load(
    bundle: Bundle, options: Options, base: Path | None = None
) -> GenerativeModel | AdaptedModel:
    """The loader of generate bundles for :mod:`agent.runtime.model`.

    Args:
        bundle: which; of an adapter the base is loaded too, for it alone.
        options: how it is loaded.
        base: where an adapter's base is; None: beside it, in a folder named by its digest.

    Raises:
        RefusedError: ``no-base``, ``wrong-base``; and as of the models.
    """
    own = bundle.manifest.adapter
    if own is None:
        return GenerativeModel(bundle, options)
    folder = base or bundle.path.parent / own.base.manifest_sha256
    if not folder.exists():
        raise RefusedError(
            "no-base",
            f"{bundle.ref} is an adapter of {own.base}, which is not here: name it (--base)",
        )
    model = GenerativeModel(Bundle.open(folder), options)
    try:
        return AdaptedModel(model, bundle, owns_base=True)
    except BaseException:
        model.close()
        raise
