"""deadhead similarity: how alike heads are, without pruning."""

from __future__ import annotations

from deadhead.cli.console import say, show, show_json, watching
from deadhead.cli.options import Screen
from deadhead.runs.similarity_settings import SimilaritySettings


def similarity(settings: SimilaritySettings, screen: Screen) -> None:
    """Measure how alike heads are, and group them, without pruning anything.

    Writes a folder with the distances, the groups, a plan and a pruning log, how much the groups
    depend on the prompts, figures/ and report.html. 'deadhead apply --plan OUT/plan.json' applies
    the plan.

    Examples:
      deadhead similarity bundled:decoder --heads 50%

      deadhead similarity my-opt --prompts a.tsv --prompts b.tsv --importance taylor -o alike
    """
    from deadhead.report.similarity_summary import agreement_table, block_table, removed_share_table
    from deadhead.runs.similarity import run_similarity

    with watching("comparing", settings.output, hidden=screen.as_json) as watch:
        summary = run_similarity(settings, watch=watch)
    folder = settings.output
    if screen.as_json:
        names = ("run.json", "groups.json", "distances.json", "plan.json", "report.html")
        show_json(
            {
                "output": str(folder),
                "files": {name.split(".")[0]: str(folder / name) for name in names},
                "outcome": summary.outcome(),
                "notes": summary.notes,
            }
        )
        return
    show(block_table(summary))
    if summary.agreement is not None:
        show(agreement_table(summary.agreement))
    if summary.removed:
        show(removed_share_table(summary.removed, summary.importance))
    for note in summary.notes:
        say(f"note: {note}")
    show(summary.outcome(), f"report: {folder / 'report.html'}")
