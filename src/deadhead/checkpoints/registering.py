"""The loader is registered with transformers when transformers is ready to load models.

Importing the parts of transformers that know loaders takes over a second, which `import deadhead`
does not spend: it waits until other code imports them, which every `from_pretrained` does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

# the first imports the second, and has models when it is done
KNOW_LOADERS = ("transformers.modeling_utils", "transformers.quantizers.auto")


def register_when_ready() -> None:
    """Register the loader now, if transformers can load models, or as soon as it can."""
    if any(name in sys.modules for name in KNOW_LOADERS):
        register()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def register() -> None:
    """Register the loader; see `loader.register_loader`."""
    from deadhead.checkpoints.loader import register_loader

    register_loader()


class _Waiting(MetaPathFinder):
    """Finds nothing itself: it lets one of `KNOW_LOADERS` be found, and registers after it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find what the other finders find, with a loader that registers ours at the end."""
        if name not in KNOW_LOADERS:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Import a module as its own loader does, then register."""

    def __init__(self, own: Loader):
        self.own = own

    def __getattr__(self, name: str) -> object:
        return getattr(self.own, name)  # resources and source code

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module."""
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        self.own.exec_module(module)
        register()
