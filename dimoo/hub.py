"""Checkpoints on the Hugging Face hub: which files, at which revision, and a sentence for everything that can go wrong.

huggingface_hub shows the progress, resumes after a break of the connection, keeps complete files when a download is given up,
and takes what is complete in its cache when the hub cannot be reached.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dimoo.errors import DimooError

CONFIGS = ("config.json", "vqvae/config.json", "adapter_config.json")
FILES = (
    *CONFIGS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "model*.safetensors", "model.safetensors.index.json", "vqvae/*.safetensors", "vqvae/*.safetensors.index.json",
    "adapter_model.safetensors",
)  # fmt: skip
DISK_FULL = 28  # errno
NAME = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w.][\w./-]*))?", re.ASCII)


def split_name(name: str) -> tuple[str, str | None] | None:
    """owner/name or owner/name@revision -> (hub id, revision); None if it is neither.

    revision: a branch, a tag or a commit; a commit keeps a deployment at what was tested.
    """
    match = NAME.fullmatch(name)
    return match and (match["id"], match["revision"])


def download(hub_id: str, revision: str | None = None, files: Sequence[str] = FILES) -> Path:
    """Local folder with the files of a checkpoint, fetched if need be. Raises DimooError with what to do about a failure."""
    import huggingface_hub
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise DimooError(
            f"{hub_id} is gated: ask for access on https://huggingface.co/{hub_id}, "
            "then log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DimooError(
            f"There is no folder {hub_id}, and no such model on the Hugging Face hub: check the name; "
            "if it is private, log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DimooError(f"{hub_id} has no revision {revision}: check what stands after the @.") from error
    except errors.LocalEntryNotFoundError as error:
        raise DimooError(
            f"{hub_id}{at} is not here in full, and the Hugging Face hub cannot be reached: check the connection "
            "(and that HF_HUB_OFFLINE is not set). Files that are complete are kept."
        ) from error
    except errors.HFValidationError as error:
        raise DimooError(f"There is no checkpoint folder {hub_id}, and a model on the hub cannot be called so.") from error
    except (OSError, RuntimeError, ValueError, errors.HTTPError, errors.XetDownloadError) as error:
        raise DimooError(failure(hub_id + at, error)) from error


def failure(what: str, error: Exception) -> str:
    """A sentence on a download that broke off."""
    if getattr(error, "errno", None) == DISK_FULL:
        return f"The disk is full: {what} needs more room, in the folder that HF_HOME names."
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return f"The Hugging Face hub does not let you read {what}: log in again with `hf auth login` or set HF_TOKEN."
    return f"{what} cannot be downloaded ({first_line(error)}). Start again: files that are complete are kept."


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
