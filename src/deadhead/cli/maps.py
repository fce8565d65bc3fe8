"""deadhead maps: what chosen heads attend to in a sentence."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from deadhead.cli.console import show, show_json
from deadhead.cli.options import Screen
from deadhead.files import check_empty, whole_folder, write_json
from deadhead.options.fields import option, part, settings
from deadhead.options.flags import folder_option, run_folder
from deadhead.runs.settings import ModelSettings


@settings
class MapsSettings:
    """What `deadhead maps` takes."""

    model: ModelSettings = part()
    text: str = option(help="The sentence; the model's tokenizer adds its special tokens.")
    heads: str = option(help="Heads by block and index: 0.1,2.3.")
    output: Path = folder_option()
    command: str = field(default="", compare=False)


def maps(asked: MapsSettings, screen: Screen) -> None:
    """Draw the attention maps of chosen heads on a sentence.

    Writes a folder with attention.png, attention.svg and attention.json, the numbers.

    Example: deadhead maps bundled:decoder --text "the king is waking" --heads 0.1,2.3
    """
    from deadhead.report.similarity_figures import attention_figure
    from deadhead.report.style import require_matplotlib, save_figure
    from deadhead.runs.attention import attention_maps, parse_heads
    from deadhead.runs.facts import provenance_of

    chosen = parse_heads(asked.heads)
    folder = run_folder(asked.output, asked.model.short_name, "maps", *map(str, chosen[:4]))
    check_empty(folder)
    require_matplotlib()
    loaded = asked.model.load()
    found = attention_maps(loaded, asked.text, chosen)
    values = {**found.to_json(), **provenance_of(model=loaded.name, command=asked.command)}
    with whole_folder(folder) as working:
        write_json(working / "attention.json", values)
        save_figure(attention_figure(found.maps, found.tokens, found.names), working, "attention")
    if screen.as_json:
        files = {"attention": str(folder / "attention.json")}
        show_json({"output": str(folder), "files": files, "heads": found.names})
        return
    show(f"{len(found.maps)} attention maps of {len(found.tokens)} tokens")
    show(f"figure: {folder / 'attention.png'}")
