"""deadhead similarity and maps: how alike heads are, and what they attend to."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from deadhead.cli.console import files_of, watching
from deadhead.cli.options import Screen
from deadhead.files import check_empty, whole_folder, write_json
from deadhead.options.fields import option, part, settings
from deadhead.options.settings import folder_option, run_folder
from deadhead.runs.run_settings import SimilaritySettings
from deadhead.runs.settings import ModelSettings


def similarity(settings: SimilaritySettings, screen: Screen) -> None:
    """Measure how alike heads are, and group them, without pruning anything.

    Writes a folder with the distances, the groups, a plan and a pruning log, how much the groups
    depend on the prompts, figures/ and report.html. 'deadhead apply --plan OUT/plan.json' applies
    the plan.

    Examples:
      deadhead similarity bundled:decoder --heads 50%

      deadhead similarity my-opt --prompts a.tsv --prompts b.tsv --importance taylor -o alike
    """
    from deadhead.report.similarity_page import agreement_table, block_table, removed_share_table
    from deadhead.runs.similarity import run_similarity

    with watching("comparing", settings.output, hidden=screen.as_json) as watch:
        summary = run_similarity(settings, watch=watch)
    tables = [block_table(summary)]
    if summary.agreement is not None:
        tables.append(agreement_table(summary.agreement))
    if summary.removed:
        tables.append(removed_share_table(summary.removed, summary.importance))
    names = ("run.json", "groups.json", "distances.json", "plan.json", "report.html")
    files = files_of(settings.output, *names)
    screen.end(
        {**files, "outcome": summary.outcome(), "notes": summary.notes},
        *tables,
        summary.outcome(),
        f"report: {settings.output / 'report.html'}",
        notes=summary.notes,
    )


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
    screen.end(
        {**files_of(folder, "attention.json"), "heads": found.names},
        f"{len(found.maps)} attention maps of {len(found.tokens)} tokens",
        f"figure: {folder / 'attention.png'}",
    )
