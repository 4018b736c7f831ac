"""A repository on the Hugging Face Hub that takes a model: what goes wrong is one sentence.

The login is huggingface_hub's own: HF_TOKEN, or what `hf auth login` wrote. Requests are repeated
by huggingface_hub. A folder is one commit: whole or absent there too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from data.errors import InputError


class Hub:
    """One repository, which exists from its first use on."""

    def __init__(self, repo: str, *, private: bool) -> None:
        """Take its name, NAME or USER/NAME, and whether nobody else may see it."""
        self.repo = repo
        self.private = private
        self._reached = False

    def reach(self) -> None:
        """Make the repository, or see that it is there and may be written to.

        Raises:
            InputError: it cannot be: no network, no token, another's name, a public one.
        """
        if self._reached:
            return
        if constants.is_offline_mode():
            raise InputError("HF_HUB_OFFLINE is set, so nothing is sent: unset it")
        if get_token() is None:
            raise InputError(
                "no token of the Hugging Face Hub was found: run `hf auth login`, or set HF_TOKEN"
            )
        api = HfApi()
        with self._told():
            user = api.whoami()["name"]
        if "/" not in self.repo:
            self.repo = f"{user}/{self.repo}"
        self._make(api)
        self._reached = True

    def send(self, folder: Path, message: str, place: str = "") -> str:
        """Send all files of a folder, as one commit.

        Args:
            folder: what to send.
            message: of the commit.
            place: the folder in the repository.

        Returns:
            where a person can look at it.

        Raises:
            InputError: it could not be sent.
        """
        self.reach()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        operations = [
            CommitOperationAdd(str(Path(place) / path.relative_to(folder)), path) for path in files
        ]
        api = HfApi()
        with self._told():
            api.create_commit(self.repo, operations, commit_message=message)
        return f"{api.endpoint}/{self.repo}"

    def _make(self, api: HfApi) -> None:
        try:
            api.create_repo(self.repo, private=self.private)
        except HfHubHTTPError as error:
            status = _status(error)
            if status not in (401, 403, 409):  # a token for one repository alone may make none
                with self._told():
                    raise
            self._find(api, status)
        except Exception:
            with self._told():
                raise

    def _find(self, api: HfApi, refused: int | None) -> None:
        """See that a repository which could not be made is there already, and is as private."""
        try:
            found = api.model_info(self.repo)
        except HfHubHTTPError as error:
            if _status(error) not in (401, 403, 404):
                with self._told():
                    raise
            why = "is somebody else's" if refused == 409 else "cannot be made with your token"
            raise InputError(
                f"publish.repo={self.repo}: it {why}: take a name of your own (USER/NAME), or a "
                "token that may write there"
            ) from error
        if self.private and not found.private:
            raise InputError(
                f"publish.repo={self.repo}: it exists and everybody can see it: take another "
                "name, or set publish.private=false"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn whatever a request raises into a sentence."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # of whichever library carries the request
            raise InputError(f"publish.repo={self.repo}: {_sentence(error)}") from error


def _sentence(error: BaseException) -> str:
    """Return what went wrong, and what to do."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    answered = next((each for each in chain if isinstance(each, HfHubHTTPError)), None)
    if isinstance(error, ValueError) and answered is not error:  # the card, or a strange answer
        return f"the Hub did not take it: {_line(error)}"
    if answered is None:
        return f"the Hub could not be reached, or the connection was cut ({_line(chain[-1])})"
    status = _status(answered)
    if status == 401:
        return "the Hub does not know your token: run `hf auth login`, or set another HF_TOKEN"
    if status == 403:
        return "your token may not write there: take one with write access, or a name of your own"
    if status == 404:
        return "the Hub has no such repository, or does not show it to your token"
    if status == 429 or (status or 0) >= 500:
        return f"the Hub answers with status {status}: try again later"
    told = getattr(answered, "server_message", None) or _line(answered)
    return f"the Hub answers with status {status}: {told}"


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _line(error: BaseException) -> str:
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told[:200]}" if told else type(error).__name__
