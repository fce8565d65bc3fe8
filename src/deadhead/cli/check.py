"""deadhead check: do the laws hold for a model of this config?"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from deadhead.cli.console import say
from deadhead.cli.options import Screen
from deadhead.errors import UnsupportedModelError
from deadhead.options.fields import option, settings
from deadhead.options.settings import MODEL, trust_option


@settings
class CheckSettings:
    """What `deadhead check` takes."""

    source: str = option(
        help="Folder of a checkpoint or of a config.json, a model id, bundled:encoder, or a model"
        " type such as mixtral.",
        metavar="MODEL",
        kw_only=False,
    )
    derive: bool = option(
        default=False,
        help="Find where the heads are by tracing a tiny random model, prove it, and print the"
        " record as code.",
        panel=MODEL,
    )
    trust_remote_code: bool = trust_option()


def check(asked: CheckSettings, screen: Screen) -> None:
    """Prove on a tiny random model of the same config that heads are cut exactly.

    No weights are loaded. The last line says exact, exact in part (what is kept whole), or refused
    (why). The exit code is 1 if a law fails.

    Examples:
      deadhead check my-bert

      deadhead check mixtral --derive
    """
    from deadhead.derivation.code import as_code
    from deadhead.derivation.derive import derive
    from deadhead.derivation.exercises import exercises
    from deadhead.derivation.proof import prove_laws
    from deadhead.derivation.tiny import tiny_model
    from deadhead.models.architectures import has_records, records_named, register_architecture
    from deadhead.models.architectures.derived import as_data
    from deadhead.report.page import TextTable

    config = _config(asked)
    name, code = config.model_type, None
    if asked.derive:
        say(f"deriving records of {name!r} on a tiny random model")
        register_architecture(*derive(config).records)
        code = as_code(records_named(name))
    elif not has_records(name):
        raise UnsupportedModelError(
            f"model type {name!r:.100} has no record of where its heads are; --derive finds one"
        )
    model = tiny_model(config)
    found = exercises(model)
    if not found:
        raise UnsupportedModelError(f"no inputs were found with which a tiny {name!r} runs")
    proof = prove_laws(model, found)
    rows = [[law.law, law.status, law.detail] for law in proof.laws]
    columns = ("law", "result", "what was found")
    lines: list[Any] = [TextTable(columns, rows, words=columns), proof.verdict]
    values = {
        "model": asked.source,
        "model_type": name,
        "verdict": proof.verdict,
        "laws": [asdict(law) for law in proof.laws],
        "kept_whole": list(proof.kept_whole),
        "records": [as_data(r) for r in records_named(name) if r.derived],
        "code": code,
    }
    screen.end(values, *([code] if code else []), *lines)
    if proof.failed:
        raise typer.Exit(1)


def _config(asked: CheckSettings) -> Any:
    """Return the config of a folder, a model id or a model type, as of an uncut model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from deadhead.checkpoints.load import config_of
    from deadhead.derivation.tiny import default_config
    from deadhead.models.manifest import register_carried

    if asked.source in CONFIG_MAPPING_NAMES and not Path(asked.source).exists():
        return default_config(asked.source)
    config = config_of(asked.source, trust_remote_code=asked.trust_remote_code)
    if config.model_type not in CONFIG_MAPPING_NAMES:
        raise UnsupportedModelError(
            f"model type {config.model_type!r:.100} is not one of transformers, so no tiny model of"
            " it can be built; write a record, CONTRIBUTING.md says how"
        )
    config = copy.deepcopy(config)
    entry = config.__dict__.pop("quantization_config", None)
    register_carried(config.model_type, entry or {})
    return config
