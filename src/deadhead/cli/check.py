"""deadhead check: do the laws hold for a model of this config?"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from deadhead.cli.console import say
from deadhead.cli.options import Screen
from deadhead.errors import UnsupportedModelError
from deadhead.options.fields import option, settings
from deadhead.options.settings import MODEL, trust_option

if TYPE_CHECKING:
    from deadhead.derivation.proof import Proof


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
    weights: bool = option(
        default=False,
        help="Run the laws on the model's own weights, in place of those of a tiny random model;"
        " in float64 if memory allows.",
        panel=MODEL,
    )
    trust_remote_code: bool = trust_option()


def check(asked: CheckSettings, screen: Screen) -> None:
    """Prove on a tiny random model of the same config that heads are cut exactly.

    The weights are loaded with --weights alone. The last line says exact, exact in part (what is
    kept whole), or refused (why). The exit code is 1 if a law fails.

    Examples:
      deadhead check my-bert

      deadhead check my-bert --weights

      deadhead check mixtral --derive
    """
    from deadhead.derivation.code import as_code
    from deadhead.derivation.derive import derive
    from deadhead.derivation.exercises import need_exercises
    from deadhead.derivation.proof import prove_laws
    from deadhead.derivation.tiny import tiny_model
    from deadhead.derivation.weights import own_model
    from deadhead.models.architectures import has_records, records_named, register_architecture
    from deadhead.report.page import TextTable

    config = _config(asked)
    name, code, left_out = config.model_type, None, {}
    if asked.derive:
        say(f"deriving records of {name!r} on a tiny random model")
        derived = derive(config)
        register_architecture(*derived.records)
        left_out = derived.left_out
        code = as_code(records_named(name))
    elif not has_records(name):
        raise UnsupportedModelError(
            f"model type {name!r:.100} has no record of where its heads are; --derive finds one"
        )
    if asked.weights:
        model = own_model(asked.source, trust_remote_code=asked.trust_remote_code)
        say(f"the laws run on {asked.source!r} in {str(model.dtype).removeprefix('torch.')}")
    else:
        model = tiny_model(config)
    found = need_exercises(model)
    proof = prove_laws(model, found, tiny=not asked.weights)
    rows = [[law.law, law.status, law.detail] for law in proof.laws]
    columns = ("law", "result", "what was found")
    lines: list[Any] = [TextTable(columns, rows, words=columns)]
    lines += [f"left out: {where}: {reason}" for where, reason in left_out.items()]
    lines.append(proof.verdict)
    values = {**_values(asked, model, proof), "left_out": left_out, "code": code}
    screen.end(values, *([code] if code else []), *lines)
    if proof.failed:
        raise typer.Exit(1)


def _values(asked: CheckSettings, model: Any, proof: Proof) -> dict[str, Any]:
    """Return what the command prints as JSON."""
    from deadhead.models.architectures import records_named
    from deadhead.models.architectures.derived import as_data

    return {
        "model": asked.source,
        "model_type": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": asked.weights,
        "verdict": proof.verdict,
        "laws": [asdict(law) for law in proof.laws],
        "kept_whole": list(proof.kept_whole),
        "records": [as_data(r) for r in records_named(model.config.model_type) if r.derived],
    }


def _config(asked: CheckSettings) -> Any:
    """Return the config of a folder, a model id or a model type, as of an uncut model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from deadhead.checkpoints.load import config_of
    from deadhead.derivation.tiny import default_config, is_remote
    from deadhead.models.manifest import register_carried

    if asked.source in CONFIG_MAPPING_NAMES and not Path(asked.source).exists():
        return default_config(asked.source)
    config = config_of(asked.source, trust_remote_code=asked.trust_remote_code)
    if config.model_type not in CONFIG_MAPPING_NAMES and not is_remote(type(config)):
        raise UnsupportedModelError(
            f"model type {config.model_type!r:.100} is not one of transformers, so no tiny model of"
            " it can be built; write a record, CONTRIBUTING.md says how"
        )
    config = copy.deepcopy(config)
    entry = config.__dict__.pop("quantization_config", None)
    register_carried(config.model_type, entry or {})
    return config
