"""Pruners on the Hugging Face hub: fetched, taken from its cache, and pushed. Only data is fetched, never code."""

import re
import warnings
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, Notice, UsageError, brief
from gradprobe.files import may_exist

SCORER, OLDER, PLAN, CARD = "scorer.safetensors", "pruner.safetensors", "plan.json", "README.md"
FILES = (SCORER, "scorer.json", OLDER, "pruner.json", PLAN, "budget.json", CARD)
TIMEOUT = 10.0  # seconds in which a hub must answer; its client would wait for ever
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TRAIN = "train one: gradprobe vlm train --model scenes-vlm --k 11 --out DIR"


def hub_id(name: object) -> str | None:
    """Return a name if it can be that of a repository, ``user/name``; None if it cannot, or if a folder has it.

    Example:
        >>> hub_id("llava-hf/llava-1.5-7b-hf"), hub_id("scenes-vlm"), hub_id("./llava-hf/llava")
        ('llava-hf/llava-1.5-7b-hf', None, None)
    """
    possible = isinstance(name, str) and _ID.fullmatch(name) and len(name) <= 96 and not re.search(r"--|\.\.", name)
    return name if possible and isinstance(name, str) and not may_exist(Path(name)) else None


def holds_pruner(folder: Path) -> bool:
    """Return True if a folder has the files of a scorer or a plan."""
    return any((folder / name).is_file() for name in (SCORER, OLDER, PLAN))


def folder_of(name: Path | str, revision: str | None = None) -> Path:
    """Return the folder of a pruner: a local one as it is, or a snapshot of a repository on the hub.

    Only the files that a pruner has are fetched. Where the hub does not answer (a `Notice` says so), or
    ``HF_HUB_OFFLINE`` is set, the snapshot in its cache is taken. ``HF_TOKEN`` or ``hf auth login`` give access to
    private repositories.

    Args:
        name: Folder or file, or the id of a repository, ``user/name`` or ``user/name@revision``.
        revision: Branch, tag or commit of the repository; None: its main branch.

    Raises:
        UsageError: There is neither a folder nor a repository of that name, no such revision, no access, no pruner in
            it, or a revision of a local folder.
        GradprobeError: The hub cannot be reached and its cache has no such snapshot.
    """
    if not str(name):
        raise UsageError(f"an empty text names no pruner; give its folder or hub id, user/name, or {_TRAIN}")
    path = Path(name).expanduser()
    if may_exist(path):
        if revision is not None:
            raise UsageError(f"{name} is a folder here, which has no revision {revision}; leave the revision out")
        return path
    bare, at, typed = str(name).partition("@")
    if not isinstance(name, str) or hub_id(bare) is None or (at and not typed):
        raise UsageError(f"there is no pruner in {name}; {_TRAIN}, or name one on the hub: user/name")
    if at and revision is not None and revision != typed:
        raise UsageError(f"{name} names the revision {typed}, and {revision} is asked for; give one of them")
    return _snapshot(bare, typed or revision)


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    branch: str | None = None,
    token: str | None = None,
    message: str = "Push pruner with gradprobe",
) -> str:
    """Upload the files of a pruner in one commit, so that the repository holds these and no older ones.

    Args:
        folder: Folder with a pruner; other files in it stay here.
        repo_id: ``user/name``; made if it is not there.
        private: Whether a repository that is made is private; None: as the user's settings say.
        branch: Branch, made if it is not there; None: the main one.
        token: Token that may write; None: ``HF_TOKEN``, or that of ``hf auth login``.
        message: First line of the commit's message.

    Returns:
        Address of the commit.

    Raises:
        UsageError: No pruner in the folder, an id that cannot be, no token, one that may not write, or an existing
            repository that is public where a private one is asked for.
        GradprobeError: The hub cannot be reached, or refuses the files.
    """
    from huggingface_hub import HfApi, get_token

    if not holds_pruner(folder):
        raise UsageError(f"there is no pruner in {folder}; {_TRAIN}")
    if not _ID.fullmatch(repo_id):
        raise UsageError(f"{repo_id!r} is no name of a repository; give user/name, e.g. my-user/my-pruner")
    if not (token or get_token()):
        raise UsageError(f"to push {repo_id} a token is needed; type hf auth login, or set HF_TOKEN")
    api = HfApi(token=token, library_name="gradprobe")
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        public = private and not api.model_info(repo_id, timeout=TIMEOUT).private
        if not public:
            if branch is not None:
                api.create_branch(repo_id, branch=branch, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=message,
                revision=branch,
                allow_patterns=list(FILES),
                delete_patterns=list(FILES),
            )
            return str(commit.commit_url)
    except Exception as error:  # the hub, its client and transports raise many kinds of errors
        raise _fault(error, repo_id, branch, "write") from None
    raise UsageError(
        f"{repo_id} is public already, and nothing was pushed; make it private in its settings, or name another"
    )


def _snapshot(name: str, revision: str | None) -> Path:
    """Fetch the files of a pruner, or take them from the cache.

    Raises:
        UsageError: There is no such repository, revision or pruner, or no access.
        GradprobeError: The hub cannot be reached and its cache has no such snapshot.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

    cause: Exception | None = None
    folder = None
    try:
        files = [file.rfilename for file in HfApi().model_info(name, revision=revision, timeout=TIMEOUT).siblings or []]
    except Exception as error:  # the hub, its client and transports raise many kinds of errors
        if isinstance(error, RevisionNotFoundError):
            raise _fault(error, name, revision) from None
        cause = error
    else:
        if not {SCORER, OLDER, PLAN} & set(files):
            listed = ", ".join(sorted(files)[:5]) or "nothing"
            raise UsageError(
                f"{name} on the hub is no pruner: it has neither {SCORER} nor {PLAN}, but {listed}; a model is named "
                f"with --model (in Python: model=), a pruner is pushed with gradprobe vlm push DIR {name}"
            )
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=list(FILES), local_files_only=cause is not None
        )
    except Exception as error:
        raise _fault(cause or error, name, revision) from None
    if not holds_pruner(Path(folder)):  # another program fetched a part of it
        raise _fault(cause or FileNotFoundError("the snapshot is incomplete"), name, revision)
    if cause is not None and not isinstance(cause, OfflineModeIsEnabled):
        message = f"the hub did not deliver {name} ({brief(cause)}); the snapshot in its cache is used"
        warnings.warn(message, Notice, stacklevel=3)
    return Path(folder)


def _fault(error: Exception, name: str, revision: str | None, access: str = "read") -> GradprobeError:
    """Return an error of the hub or its client in the words of this program."""
    from huggingface_hub import constants, errors, get_token

    hub, at = constants.ENDPOINT, "" if revision is None else f" at {revision}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    log_in = f"type hf auth login, or set HF_TOKEN, with a token that may {access} it"
    if isinstance(error, errors.GatedRepoError):
        return UsageError(f"access to {name} is gated; ask for it on {hub}/{name}, then {log_in}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{name} on {hub} has no revision {revision}; {_revisions(name)}")
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{name!r} is no name of a repository ({brief(error)}); give user/name")
    if access == "read" and isinstance(error, errors.RepositoryNotFoundError):
        why = "or your token may not read it" if get_token() else f"or it is private: {log_in}"
        return UsageError(
            f"there is no folder {name} here and no repository {name} on {hub}, {why}; correct the name, or {_TRAIN}"
        )
    if status in (401, 403):
        return UsageError(f"{hub} refuses to {access} {name} with your token ({status}: {brief(error)}); {log_in}")
    if access == "write":
        return GradprobeError(f"{name} could not be pushed to {hub} ({brief(error)}); is there a network? try again")
    lacking = f"and the cache {constants.HF_HUB_CACHE} has no {name}{at}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return GradprobeError(
            f"there is no folder {name} here, HF_HUB_OFFLINE is set, {lacking}; give a folder, or unset HF_HUB_OFFLINE"
        )
    return GradprobeError(
        f"there is no folder {name} here, {hub} did not answer ({brief(error)}), {lacking}; give a folder, or try "
        "again with a network"
    )


def _revisions(name: str) -> str:
    """Return the branches and tags of a repository in words."""
    from huggingface_hub import HfApi

    try:
        refs: Any = HfApi().list_repo_refs(name)
    except Exception:  # the error at hand says what is wrong; this is only advice
        return "name a branch, a tag or a commit"
    return f"it has {', '.join(ref.name for ref in [*refs.branches, *refs.tags])}, and commits"
