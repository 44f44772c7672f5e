"""`RemoteReward`: a served reward as a reward function, for TRL, ms-swift and verl."""

import json
import time
import urllib.error
import urllib.request
from numbers import Integral, Real

__all__ = ["RemoteReward"]

_RETRIED = (408, 429, 502, 503, 504)  # the server may answer later


class RemoteReward:
    """The reward of ``fairl-sk serve`` as a reward function of TRL. It can be pickled.

    Parameters
    ----------
    url : str
        Address of the server, such as "http://127.0.0.1:8000".
    token : str, default=None
        What the server was started with.
    name : str, default="remote_reward"
        Name in TRL's logs, unique in a run.
    timeout : float > 0, default=120.0
        Seconds until a request counts as failed.
    n_tries : int >= 1, default=8
        Number of tries while the server is busy or cannot be reached. The pause doubles each time, from a second to 30.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> from fairl_sk.serving import RemoteReward
    >>> RemoteReward("http://127.0.0.1:8000").url
    'http://127.0.0.1:8000'
    """

    def __init__(self, url, *, token=None, name="remote_reward", timeout=120.0, n_tries=8):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError(f"Found url={url!r}. Expected an address such as 'http://127.0.0.1:8000'.")
        if not (isinstance(timeout, Real) and timeout > 0):
            raise ValueError(f"Found timeout={timeout!r}. Expected seconds above 0.")
        if not (isinstance(n_tries, Integral) and n_tries >= 1):
            raise ValueError(f"Found n_tries={n_tries!r}. Expected a whole number of at least 1.")
        self.url, self.token, self.timeout, self.n_tries = url.rstrip("/"), token, timeout, n_tries
        self.__name__ = self.name = name

    def __call__(self, prompts=None, completions=None, **_):
        """Rewards of completions.

        Parameters
        ----------
        prompts, completions : list of str or of lists of messages
            One prompt for each completion, or None where completions are scored alone.
        **_ : dict
            What else a trainer passes, ignored.

        Returns
        -------
        rewards : list of float or None
            None where there is no reward: see `fairl_sk.export.RewardFunction`.

        Raises
        ------
        ValueError
            If the server refuses the request; its message is passed on.
        ConnectionError
            If it cannot be reached, or does not answer in time.
        """
        body = {"completions": list(completions)}
        if prompts is not None:
            body["prompts"] = list(prompts)
        rewards = self._post("/reward", body)["rewards"]
        if len(rewards) != len(body["completions"]):
            found = f"{len(rewards)} rewards for {len(body['completions'])} completions"
            raise ValueError(f"{self.url} gave {found}. Expected one each: is it another server?")
        return rewards

    def _post(self, path, body):
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        failure = None
        for attempt in range(self.n_tries):
            if attempt:
                time.sleep(min(2.0 ** (attempt - 1), 30.0))
            request = urllib.request.Request(self.url + path, data, headers)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                failure = f"{error.code}: {_detail(error)}"
                if error.code not in _RETRIED:
                    raise ValueError(f"{self.url} refused the request, {failure}") from error
            except OSError as error:  # refused, reset, timed out
                failure = str(error)
        raise ConnectionError(
            f"{self.url} gave no reward in {self.n_tries} tries. The last one: {failure} Is the server running? Raise "
            "timeout or n_tries if it is only slow."
        )


def _detail(error):
    """The message in an answer of the server."""
    try:
        return json.load(error)["detail"]
    except (ValueError, KeyError, TypeError, OSError):
        return error.reason
