"""Models on the Hugging Face hub: one commit with everything, and downloads that cannot run anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dipole_sb3.common.version import VERSION
from dipole_sb3.learning import safe_files

MODEL = "model.zip"
CARD = "README.md"

MANIFEST = "manifest.json"
"""Of a bundle."""

_OWN = (
    MODEL,
    CARD,
    "*_sweep.csv",
    "*_sweep.png",
    "evaluation.csv",
    "evaluation.png",
    "film.gif",
    "arm.gif",
    "paths.png",
    "*.dipole",
)
"""Files of a repository that belong to its model, besides bundles that are folders."""

_LIBRARY = {"library_name": "dipole-sb3", "library_version": VERSION}


def library() -> Any:
    """The package huggingface_hub.

    :raises ModuleNotFoundError: it is not installed; the message names the extra.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.repocard_data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the hub needs the package {error.name}, which is not installed: pip install 'dipole-sb3[hub]'"
        ) from error
    return huggingface_hub


def push(
    repo_id: str,
    files: Mapping[str, bytes | Path],
    card: Callable[[str], str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
) -> str:
    """Makes the repository where there is none, and one commit with all files and the card.

    :param repo_id: ``"NAME"`` or ``"USER/NAME"``.
    :param files: path in the repository → content, or the file that has it.
    :param card: takes the repository's full id, gives the text of its README.md.
    :param revision: an existing branch; None: main.
    :param token: None: that of ``hf auth login`` or the environment variable HF_TOKEN.
    :param private: whether a new repository is private; None: as the account's default says.
    :return: the address of the commit.
    :raises OSError: the hub cannot be reached or refuses; it then has no part of this commit.
    """
    hub = library()
    api = hub.HfApi(token=token, **_LIBRARY)
    with _in_one_sentence(repo_id, revision, "; nothing was committed"):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        whole = {CARD: card(repo_id).encode(), **files}
        outdated = _of_model(api.list_repo_files(repo_id, revision=revision)) - whole.keys()
        operations = [
            *(hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in whole.items()),
            *(hub.CommitOperationDelete(path_in_repo=name) for name in sorted(outdated)),
        ]
        commit = api.create_commit(
            repo_id, operations, commit_message=f"Model of dipole-sb3 {VERSION}", revision=revision
        )
    return str(commit.commit_url)


def _of_model(files: Sequence[str]) -> set[str]:
    """The files that belong to the model of a repository: another model's push replaces or deletes them."""
    folders = [(folder, name) for folder, _, name in (file.rpartition("/") for file in files) if folder]
    # The manifest of a web page has the same name.
    bundles = {folder for folder, name in folders if name == MANIFEST}
    bundles &= {folder for folder, name in folders if name.endswith(".onnx")}
    return {
        file
        for file in files
        if file.rpartition("/")[0] in bundles
        or ("/" not in file and any(fnmatchcase(file, pattern) for pattern in _OWN))
    }


def download(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> Path:
    """The model of a repository, as a file in the hub's cache; downloaded when it is not there yet.

    :param revision: branch, tag or commit; None: main.
    :param token: as in :func:`push`.
    :raises OSError: the repository, the revision or the model is not there, may not be read, or cannot be reached.
    :raises ValueError: the model is in SB3's format, whose loading runs what its writer pickled.
    """
    hub = library()
    with _in_one_sentence(repo_id, revision):
        path = Path(hub.hf_hub_download(repo_id, MODEL, revision=revision, token=token, **_LIBRARY))
    if not safe_files.is_safe(path):
        raise ValueError(
            f"{repo_id}: its {MODEL} is no safe model, and loading it could run code that it brings; expected JSON and "
            'safetensors, as push_to_hub() and save(…, format="safe") write them'
        )
    return path


@contextmanager
def _in_one_sentence(repo_id: str, revision: str | None, left: str = "") -> Iterator[None]:
    """Turns what the library raises into an OSError of one sentence; the library's own error is its cause.

    :param left: what a refusal leaves.
    """
    errors = library().errors
    where = repo_id if revision is None else f"{repo_id} at {revision}"
    log_in = "log in by `hf auth login`, or give a token that may"
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(
            f"repo_id is {repo_id!r}, expected NAME or USER/NAME of letters, digits, '-', '_' and '.'"
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{where}: this repository is gated; ask for access on its page, then {log_in} read it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{where}: the hub has no such repository, or does not show it; if it is private, {log_in} read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id}: has no revision {revision}, expected a branch, tag or commit of it"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(f"{where}: not in the cache, and the hub cannot be reached ({_reason(error)})") from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{where}: has no {MODEL}, expected a repository that push_to_hub() filled") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"{where}: the hub does not permit this ({_reason(error)}); {log_in} do it{left}"
            ) from error
        raise OSError(f"{where}: the hub refused ({status}: {_reason(error)}){left}") from error
    except ValueError as error:
        # The hub has looked at the card, before anything is uploaded.
        raise ValueError(f"{where}: {_reason(error)[:300]}{left}") from error
    # Connections end in errors of the HTTP library, which one depends on the version; uploads wrap them.
    except Exception as error:
        raise ConnectionError(f"{where}: the hub cannot be used ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """What went wrong on one line, without the addresses and advice of the library's longer messages."""
    if isinstance(error, ValueError):
        return " ".join(str(error).split())
    while error.__cause__ is not None and not getattr(error, "server_message", None):
        error = error.__cause__
    said = getattr(error, "server_message", None) or str(error)
    return next((line.strip().rstrip(".") for line in said.splitlines() if line.strip()), type(error).__name__)
