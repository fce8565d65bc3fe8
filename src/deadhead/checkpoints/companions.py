"""The files beside a model's weights: of its processor, of sentence-transformers, its license.

A cut model needs them as the dense one does, and no writer of transformers copies them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath

from deadhead.models.sentence_modules import module_folders

BASE_CARD = "README.base.md"  # what the model card of the base is kept as, beside that of the cut

# what people and libraries read, not weights of any format
_READ = {".json", ".txt", ".model", ".jinja", ".md", ".yaml", ".yml", ".tiktoken", ".bpe"}
_LEGAL = re.compile(r"(licen[cs]e|notice|copying)(\.|$)", re.IGNORECASE)
# of the dense weights, of their training, or of weights in other formats, which are not copied
_OF_DENSE = re.compile(
    r".*\.index\.json|adapter_config\.json|trainer_state\.json|training_.*|.*_results\.json"
    r"|quanti[sz]e_config\.json|openvino_config\.json|onnx_config\.json|ort_config\.json"
)


def companions_of(folder: Path) -> list[PurePosixPath]:
    """List the files of a checkpoint's folder that belong to its cut copy too, by relative path.

    These are, at its top, the files that people and libraries read (processors, tokenizers,
    templates, licenses), but no weights and nothing that describes the dense weights or their
    training; and whole folders of modules that `modules.json` names, which may have weights of
    their own. Nothing is opened but `modules.json`, and hidden files are left out.
    """
    found = [
        PurePosixPath(path.name)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and _kept(path.name)
    ]
    for name in module_folders(folder):
        inside = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        found += [PurePosixPath(path.relative_to(folder)) for path in inside]
    return found


def copy_companions(source: Path, target: Path, *, card: bool) -> None:
    """Copy the files that belong to a cut copy as well, except those that are there already.

    Args:
        source: the folder that the model came from.
        target: the folder that its weights, config and tokenizer were written into.
        card: whether a model card is going to be written; the source's is then kept beside it.
    """
    names = companions_of(source)
    for name in names:
        to = target / name
        if card and str(name) == "README.md":
            if PurePosixPath(BASE_CARD) in names:
                continue  # the source was cut itself
            to = target / BASE_CARD
        if not to.exists():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, to)


def folder_of(name: str) -> Path | None:
    """Find the folder that a model was loaded from, by the `name_or_path` of its config.

    Of a hub id it is the copy on this machine; the small files that are missing there are fetched,
    if the network allows.
    """
    if not name:
        return None
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    if not isinstance(cached, str):
        return None
    here = Path(cached).parent
    try:
        wanted = [*(f"*{ending}" for ending in _READ), "LICENSE*", "NOTICE*", "[0-9]_*/*"]
        return Path(snapshot_download(name, revision=here.name, allow_patterns=wanted))
    except Exception:  # without network: each layer has its own
        return here


def _kept(name: str) -> bool:
    readable = Path(name).suffix.lower() in _READ or _LEGAL.match(name)
    return bool(readable) and _OF_DENSE.fullmatch(name) is None
