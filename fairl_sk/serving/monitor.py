"""`Monitor`: figures of a served reward in Prometheus' format, by which reward hacking shows while a policy trains."""

import numpy as np

from ..extras import import_extra
from ..messages import to_text

__all__ = ["Monitor"]


class Monitor:
    """Counts requests, rewards, and what is suspicious about rewards.

    Parameters
    ----------
    low, high : float or None
        Lowest and highest reward of the training outputs, as the server gives them. None: unknown.
    is_novel : callable or None
        Outputs (n,) -> whether each is unlike the training outputs. None: unknown.
    """

    def __init__(self, low=None, high=None, is_novel=None):
        client = import_extra("prometheus_client", "serve", "fairl-sk serve")
        self.low, self.high, self.is_novel = low, high, is_novel
        self.registry = client.CollectorRegistry()
        counter = {"registry": self.registry}
        self._requests = client.Counter("fairl_requests", "Requests", ["path", "status"], **counter)
        self._seconds = client.Histogram("fairl_request_seconds", "Time until the answer", **counter)
        self._rewards = client.Counter("fairl_rewards", "Completions that were scored", **counter)
        self._missing = client.Counter("fairl_rewards_missing", "Completions without a reward", **counter)
        self._tied = client.Counter(
            "fairl_rewards_tied", "Completions with the reward of another text of their request", **counter
        )
        self._outside = self._novel = None
        if low is not None:
            self._outside = client.Counter(
                "fairl_rewards_outside", "Rewards outside the range of the training outputs", **counter
            )
        if is_novel is not None:
            self._compared = client.Counter("fairl_texts_compared", "Completions compared with these", **counter)
            self._novel = client.Counter("fairl_texts_novel", "Completions unlike the training outputs", **counter)
        self._value = client.Summary("fairl_reward_value", "Sum and number of rewards", **counter)

    def observe_request(self, path, status, seconds):
        """Count a request.

        Parameters
        ----------
        path : str
        status : int
            0: the client was gone.
        seconds : float
        """
        known = path if path in PATHS else "other"
        self._requests.labels(known, str(status)).inc()
        if known in SCORING:
            self._seconds.observe(seconds)

    def observe_rewards(self, completions, rewards):
        """Count rewards of one request.

        Parameters
        ----------
        completions : list
            Texts or lists of messages.
        rewards : list of float or None
        """
        values = np.array([reward for reward in rewards if reward is not None])
        self._rewards.inc(len(rewards))
        self._missing.inc(len(rewards) - len(values))
        texts = [to_text(text) for text, reward in zip(completions, rewards, strict=True) if reward is not None]
        distinct = {(text, value) for text, value in zip(texts, values.tolist(), strict=True)}
        shared, counts = np.unique([value for _, value in distinct], return_counts=True)
        self._tied.inc(int(np.isin(values, shared[counts > 1]).sum()))
        if self._outside is not None:
            self._outside.inc(int(((values < self.low) | (values > self.high)).sum()))
        for value in values:
            self._value.observe(float(value))

    def compare_texts(self, completions):
        """Compare completions of one request with the training outputs, and count those unlike them.

        Parameters
        ----------
        completions : list
            Texts or lists of messages; empty ones do not count.
        """
        texts = [text for text in map(to_text, completions) if text]
        if self._novel is not None and texts:
            novel = self.is_novel(np.array(texts, dtype=object))
            self._compared.inc(len(texts))
            self._novel.inc(int(np.sum(novel)))

    def text(self):
        """All figures, in Prometheus' text format.

        Returns
        -------
        text : bytes
        """
        return import_extra("prometheus_client", "serve", "fairl-sk serve").generate_latest(self.registry)


SCORING = ("/reward", "/get_reward", "/predict")
PATHS = (*SCORING, "/health", "/info", "/metrics", "/openapi.json", "/docs")
