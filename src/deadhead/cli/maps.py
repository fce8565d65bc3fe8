"""deadhead maps: what chosen heads attend to in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deadhead.checkpoints import load_model
from deadhead.cli import options as o
from deadhead.cli.console import show, show_json, typed_command
from deadhead.files import check_empty, whole_folder
from deadhead.report.similarity_figures import attention_figure
from deadhead.report.style import require_matplotlib, save_figure
from deadhead.runs import versions
from deadhead.runs.attention import attention_maps, parse_heads


def maps(
    model: o.ModelArgument,
    text: Annotated[
        str, typer.Option(help="The sentence, tokenised as the model's tokenizer does by itself.")
    ],
    heads: Annotated[str, typer.Option(help="Heads by block and index: 0.1,2.3.")],
    output: o.OutputFolderOption = None,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Draw the attention maps of chosen heads on a sentence.

    The folder holds attention.png, attention.svg and attention.json, the numbers.

    Example: deadhead maps bundled:decoder --text "the king is waking" --heads 0.1,2.3
    """
    chosen = parse_heads(heads)
    folder = o.output_folder(output, Path(model).name, "maps", *map(str, chosen[:4]))
    check_empty(folder)
    require_matplotlib()
    loaded = load_model(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    found = attention_maps(loaded, text, chosen)
    about = {"model": loaded.name, "command": typed_command(), "versions": versions()}
    values = {**found.to_json(), **about}
    with whole_folder(folder) as working:
        (working / "attention.json").write_text(json.dumps(values) + "\n", encoding="utf-8")
        save_figure(attention_figure(found.maps, found.tokens, found.names), working, "attention")
    if as_json:
        show_json({"output": str(folder), **values})
        return
    show(f"{len(found.maps)} attention maps of {len(found.tokens)} tokens")
    show(f"figure: {folder / 'attention.png'}")
