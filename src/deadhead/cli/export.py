"""deadhead export: a cut model for those who have never heard of deadhead."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from deadhead.cli.options import Screen
from deadhead.options.fields import check_choices, option, settings
from deadhead.options.settings import trust_option
from deadhead.options.values import ExportFormat


@settings
class ExportSettings:
    """What `deadhead export` takes."""

    source: str = option(
        help="Folder of a run, or of a checkpoint that was cut.",
        metavar="RUN_OR_MODEL",
        kw_only=False,
    )
    format: ExportFormat = option(
        default="padded",
        help="padded: zeros where heads were removed, loads anywhere, saves nothing. uniform: a"
        " plain smaller model; every block must have as many heads (prune --scope per_block)."
        " onnx: a graph for ONNX Runtime, decoders with their past (pip install 'deadhead[onnx]').",
    )
    output: Path = option(flags=("--output", "-o"), help="Folder to write.")
    trust_remote_code: bool = trust_option()

    def __post_init__(self) -> None:
        check_choices(self)


def export_command(asked: ExportSettings, screen: Screen) -> None:
    """Write a cut model in a form that loads without deadhead, and check it.

    The export is loaded in a process that does not import deadhead and compared with the cut model
    before it takes its place.

    Example: deadhead export runs/my-bert-auto-auto-50% --format padded -o plain
    """
    from deadhead.exports import export
    from deadhead.files import check_empty
    from deadhead.runs.settings import ModelSettings

    check_empty(asked.output)
    inside = Path(asked.source, "model")
    source = str(inside) if (inside / "config.json").is_file() else asked.source
    loaded = ModelSettings(source, trust_remote_code=asked.trust_remote_code).load()
    made = export(loaded.model, asked.output, format=asked.format, tokenizer=loaded.tokenizer)
    screen.end(asdict(replace(made, folder=str(made.folder))), str(made))
