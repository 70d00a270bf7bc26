"""Where a backbone's weights are: a file, the weights folder, or the hub it was published on."""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from abaw_feats.backbones.registry import ALIASES
from abaw_feats.backbones.spec import BackboneSpec
from abaw_seq.errors import AbawError, UserError

FOLDER_VARIABLE = "ABAW_WEIGHTS"
DEFAULT_FOLDER = "~/.cache/abaw/weights"
SUFFIXES = (".safetensors", ".pt", ".pth")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_PROBE_SECONDS = 3.0


def weights_folder() -> Path:
    """The folder in which `<name>.safetensors`, `.pt` or `.pth` is looked for."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser()


class WeightFile(NamedTuple):
    """A weight file on this machine."""

    path: Path
    label: str
    """Its name in feature files: the file's own, that and ":<set>", or "<hub repository>/<file>"."""

    @property
    def chosen(self) -> str | None:
        """Which of the sets of weights in the file is meant, where that was said."""
        own = f"{self.path.name}:"
        return self.label.removeprefix(own) if self.label.startswith(own) else None


def named_file(text: str) -> WeightFile:
    """The weight file that FILE, or FILE:SET, names; a file of the whole name wins, whatever colons are in it."""
    path = Path(text).expanduser()
    head, colon, chosen = text.rpartition(":")
    if colon and chosen and not path.exists() and (file := Path(head).expanduser()).is_file():
        return WeightFile(file, f"{file.name}:{chosen}")
    return WeightFile(path, path.name)


def find_local(spec: BackboneSpec) -> WeightFile | None:
    """The weight file of a spec on this machine, or None, without network access.

    Looks for the spec's own file first, then in the weights folder, then in the cache of the hub's client.
    """
    if spec.weights:
        file = named_file(spec.weights)
        if not file.path.exists():
            raise UserError(
                f"{file.path}: the weights of backbone {spec.name!r} are not there: "
                f"name a file, weights {spec.name}=FILE"
            )
        return file
    stems = [spec.name.removeprefix("timm:"), ALIASES.get(spec.name), (spec.hub or "").rpartition("/")[2]]
    for stem in filter(None, stems):
        for suffix in SUFFIXES:
            path = weights_folder() / f"{stem}{suffix}"
            if path.exists():
                return WeightFile(path, path.name)
    return _cached(spec.hub) if spec.hub else None


def locate(spec: BackboneSpec) -> WeightFile:
    """The weight file of a spec, downloaded from its hub if there is none on this machine.

    Raises UserError that says what can be done if there is none and none can be downloaded.
    """
    if file := find_local(spec):
        return file
    if spec.hub and _hub_answers():
        return _download(spec)
    train = "pretrain" if spec.arch == "vit" else "finetune"
    offline = f", and its hub ({spec.hub}) cannot be reached" if spec.hub else ""
    raise UserError(
        f"no weights for backbone {spec.name!r}{offline}: name a file, weights {spec.name}=FILE, or put "
        f"{spec.name.removeprefix('timm:')}.safetensors into {weights_folder()} (or ${FOLDER_VARIABLE}), or train "
        f"some with `abaw-feats {train}`, or try things out with weights {spec.name}=random"
    )


def _cached(hub: str) -> WeightFile | None:
    from huggingface_hub import try_to_load_from_cache

    for name in HUB_FILES:
        path = try_to_load_from_cache(hub, name)
        if isinstance(path, str):
            return WeightFile(Path(path), f"{hub}/{name}")
    return None


def _hub_answers() -> bool:
    """True if the hub can be reached within seconds; its client alone would retry for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def probe() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=HUB_PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # an answer nevertheless
        except OSError:
            return
        answered.set()

    # In a thread, because looking up a host name takes no time limit.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(HUB_PROBE_SECONDS)
    return answered.is_set()


def _download(spec: BackboneSpec) -> WeightFile:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in HUB_FILES:
        try:
            return WeightFile(Path(hf_hub_download(str(spec.hub), name)), f"{spec.hub}/{name}")
        except (OSError, ValueError, EntryNotFoundError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue  # the repository has weights of the other format
            raise AbawError(f"{spec.hub}: download of the weights of {spec.name!r} failed: {error}") from None
    raise AbawError(f"{spec.hub}: the hub has none of {', '.join(HUB_FILES)}: name a file, weights {spec.name}=FILE")


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of tensors' bytes in the order of their sorted names, in hexadecimal."""
    digest = hashlib.sha256()
    for key in sorted(state):
        flat = state[key].detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
