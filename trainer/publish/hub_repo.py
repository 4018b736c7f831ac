"""Create a repository on the Hugging Face Hub and commit folders to it.

The token is HF_TOKEN or that of `hf auth login`. huggingface_hub retries requests. A folder is sent
as one commit, so it is complete or absent on the Hub too. Every error is an InputError.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from data.errors import InputError


class Hub:
    """A model repository, which is created on first use."""

    def __init__(self, repo: str, *, private: bool) -> None:
        """Store the name; nothing is sent yet.

        Args:
            repo: NAME or USER/NAME.
            private: create it as private, and refuse an existing public one.
        """
        self.repo = repo
        self.private = private
        self._exists = False

    def ensure_exists(self) -> None:
        """Create the repository, or check that it exists with the right visibility.

        Raises:
            InputError: no network, no token, no write access, or the repository is public.
        """
        if self._exists:
            return
        if constants.is_offline_mode():
            raise InputError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it")
        if get_token() is None:
            raise InputError(
                "no token for the Hugging Face Hub was found: run `hf auth login`, or set HF_TOKEN"
            )
        api = HfApi()
        with self._explain_errors():
            user = api.whoami()["name"]
        if "/" not in self.repo:
            self.repo = f"{user}/{self.repo}"
        self._create(api)
        self._exists = True

    def send(self, folder: Path, message: str, place: str = "") -> str:
        """Upload all files of a folder as one commit.

        Args:
            folder: local folder.
            message: of the commit.
            place: folder in the repository.

        Returns:
            The address of the repository.

        Raises:
            InputError: the upload failed.
        """
        self.ensure_exists()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        operations = [
            CommitOperationAdd(str(Path(place) / path.relative_to(folder)), path) for path in files
        ]
        api = HfApi()
        with self._explain_errors():
            api.create_commit(self.repo, operations, commit_message=message)
        return f"{api.endpoint}/{self.repo}"

    def _create(self, api: HfApi) -> None:
        try:
            api.create_repo(self.repo, private=self.private)
        except HfHubHTTPError as error:
            status = _status(error)
            if status not in (401, 403, 409):  # a token for a single repository may not create any
                with self._explain_errors():
                    raise
            self._check_existing(api, status)
        except Exception:
            with self._explain_errors():
                raise

    def _check_existing(self, api: HfApi, create_status: int | None) -> None:
        """Check that a repository that could not be created exists, and is private if it must be.

        Args:
            api: the client.
            create_status: HTTP status of the attempt to create it.

        Raises:
            InputError: it does not exist, belongs to somebody else, or is public.
        """
        try:
            info = api.model_info(self.repo)
        except HfHubHTTPError as error:
            if _status(error) not in (401, 403, 404):
                with self._explain_errors():
                    raise
            why = "belongs to somebody else"
            if create_status != 409:
                why = "cannot be created with your token"
            raise InputError(
                f"publish.repo={self.repo}: it {why}: use a name of your own (USER/NAME), or a "
                "token with write access to it"
            ) from error
        if self.private and not info.private:
            raise InputError(
                f"publish.repo={self.repo}: it exists and is public: use another name, or set "
                "publish.private=false"
            )

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turn any exception of a request into an InputError."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # also of httpx or requests
            raise InputError(f"publish.repo={self.repo}: {_explanation(error)}") from error


def _explanation(error: BaseException) -> str:
    """Return what went wrong, and what to do."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    http_error = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    if isinstance(error, ValueError) and http_error is not error:  # invalid card, or odd response
        return f"the Hub rejected it: {_one_line(error)}"
    if http_error is None:
        return f"the Hub could not be reached, or the connection was lost ({_one_line(chain[-1])})"
    status = _status(http_error)
    if status == 401:
        return "the Hub does not accept your token: run `hf auth login`, or set another HF_TOKEN"
    if status == 403:
        return "your token has no write access: use one that has, or a name of your own"
    if status == 404:
        return "the Hub has no such repository, or your token has no access to it"
    if status == 429 or (status or 0) >= 500:
        return f"the Hub answered with status {status}: try again later"
    message = getattr(http_error, "server_message", None) or _one_line(http_error)
    return f"the Hub answered with status {status}: {message}"


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}" if message else type(error).__name__
