"""Write a cut model in a form that others load, and check it before it takes its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deadhead.display import Brief
from deadhead.exports.verify import Agreement, Trial, check_export, plain_trial
from deadhead.files import whole_folder
from deadhead.models.heads import HeadModel
from deadhead.models.registry import Registry


@dataclass(frozen=True)
class Format:
    """A form in which a cut model leaves.

    Attributes:
        write: writes (model, tokenizer) into a folder that is not there.
        about: what it is, for the card.
        loading: Python that loads it, for the card; knows the `name` of the folder and the `auto`
            class.
        library: what loads it, by the name that model hubs have for it.
        prepare: returns the model that is written and compared with, or refuses the cut one.
        trial: what the export has to give.
    """

    write: Callable[[Any, Any, Path], None]
    about: str
    loading: str = 'from transformers import {auto}\nmodel = {auto}.from_pretrained("{name}")'
    library: str = "transformers"
    prepare: Callable[[Any], Any] = lambda model: model
    trial: Callable[[Any], Trial] = plain_trial


FORMATS = Registry[Format](
    "export format",
    {
        "onnx": "deadhead.exports.onnx",
        "padded": "deadhead.exports.dense",
        "uniform": "deadhead.exports.dense",
    },
)

CARD = """---
library_name: {library}
---
# {name}

Attention heads were removed from this model with deadhead: {kept} of {heads} are left. This is an
export in the format `{format}`: it loads without deadhead.

```python
{loading}
```
{about}
"""


@dataclass(frozen=True, repr=False)
class Exported(Brief):
    """What was written, and how it compares with the cut model.

    Attributes:
        format: name of the format.
        folder: where it is.
        agreement: what the check in a process without deadhead found.
    """

    format: str
    folder: Path
    agreement: Agreement

    def __str__(self) -> str:
        return f"{self.format}: {self.folder} ({self.agreement}; loaded without deadhead)"


def export(
    model: nn.Module, target: str | Path, *, format: str = "padded", tokenizer: Any = None
) -> Exported:
    """Write a model that was cut in a form that loads without deadhead.

    `uniform` is a plain model with fewer heads in every block alike; `padded` has zeros where heads
    were removed, and saves nothing; `onnx` is a graph for ONNX Runtime, in float32. Each is loaded
    in a process without deadhead and compared with `model`, before it takes its place.

    Args:
        model: the cut model; stays as it is.
        target: a folder that is empty or not there.
        format: one of `FORMATS`.
        tokenizer: the model's tokenizer or processor; None writes none.

    Cost: a second model in memory; one more process, which loads the export.

    Raises:
        UnknownNameError: there is no such format.
        MissingDependencyError: the format needs a package that is not installed.
        UnsupportedModelError: this format cannot hold this model; says why, and what can.
        OutputExistsError: `target` is not empty.
        CheckpointError: the export does not load, or gives other outputs; nothing is left.
    """
    form = FORMATS[format]
    mask = HeadModel(model).mask
    with whole_folder(target) as folder:
        place = folder / "model"
        written = form.prepare(model)
        form.write(written, tokenizer, place)
        agreement = check_export(form.trial(written), place)
        for path in sorted(place.iterdir()):
            path.rename(folder / path.name)
        place.rmdir()
        name = Path(target).resolve().name
        card = CARD.format(
            library=form.library,
            name=name,
            kept=mask.n_kept,
            heads=mask.n_heads,
            format=format,
            loading=form.loading.format(auto=type(model).__name__, name=name),
            about=form.about,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Exported(format, Path(target), agreement)
