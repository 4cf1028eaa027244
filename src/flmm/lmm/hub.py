"""Upload of a folder to the hub."""

from pathlib import Path

from flmm.errors import InputError, first_line


def upload_folder(folder: Path, what: str, repo_id: str, private: bool = False) -> str:
    """Upload a folder's files; needs a hub login.

    Args:
        folder: its files replace those of the same names.
        what: names the content in messages, such as "head".
        repo_id: "owner/name", created if it is missing.
        private: whether a new repository is private.

    Returns:
        The repository's URL.

    Raises:
        InputError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    # That of the HTTP client of this huggingface_hub; a refused connection is no OSError.
    from huggingface_hub.errors import HTTPError as HubConnectionError  # type: ignore[attr-defined]

    try:
        url = HfApi().create_repo(repo_id, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    except (OSError, HFValidationError, HubConnectionError) as error:
        raise InputError(
            f"cannot upload the {what} to {repo_id!r} ({first_line(error)}); "
            "check the name, the network and `hf auth login`"
        ) from error
    return str(url)
