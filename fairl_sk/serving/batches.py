"""`Batcher`: completions of concurrent requests are scored together, in one thread, in the order of their arrival."""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Batcher", "BusyError"]


class BusyError(Exception):
    """So many completions wait that another request is refused."""


class Batcher:
    """A queue before a reward function.

    Parameters
    ----------
    reward : callable
        ``reward(prompts=..., completions=...)`` -> a reward or None for each completion.
    max_texts : int
        The most completions that are scored at once, unless one request has more.
    max_waiting : int
        The most completions that wait.
    """

    def __init__(self, reward, max_texts, max_waiting):
        self.reward, self.max_texts, self.max_waiting = reward, max_texts, max_waiting
        self.n_waiting = 0
        self._requests = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self._worker = None

    async def score(self, prompts, completions):
        """Rewards of one request.

        Parameters
        ----------
        prompts : list or None
        completions : list

        Returns
        -------
        rewards : list of float or None

        Raises
        ------
        BusyError
            If too many completions wait.
        ValueError
            Of the reward function.
        """
        if self.n_waiting and self.n_waiting + len(completions) > self.max_waiting:
            raise BusyError(f"{self.n_waiting} completions wait. Try again later.")
        future = asyncio.get_running_loop().create_future()
        self._requests.append((prompts, completions, future))
        self.n_waiting += len(completions)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        return await future

    async def _work(self):
        """Score what waits, until nothing does."""
        while self._requests:
            batch = self._next_batch()
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._score_batch, batch)
            except RuntimeError as error:  # the thread ended with the server
                results = [error] * len(batch)
            for (_, completions, future), result in zip(batch, results, strict=True):
                self.n_waiting -= len(completions)
                if future.done():  # its request was given up
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next_batch(self):
        """The oldest requests that fit into a batch; requests with and without prompts do not mix."""
        batch, n_texts = [], 0
        while self._requests:
            prompts, completions, future = self._requests[0]
            alike = not batch or (prompts is None) == (batch[0][0] is None)
            fits = alike and n_texts + len(completions) <= self.max_texts
            if batch and not fits:
                break
            self._requests.popleft()
            if future.cancelled():
                self.n_waiting -= len(completions)
                continue
            batch.append((prompts, completions, future))
            n_texts += len(completions)
        return batch

    def _score_batch(self, batch):
        """The rewards of each request, or its error: a request that cannot be scored fails alone."""
        if not batch:
            return []
        prompts = None if batch[0][0] is None else [prompt for prompts, _, _ in batch for prompt in prompts]
        try:
            rewards = self.reward(prompts=prompts, completions=[text for _, texts, _ in batch for text in texts])
        except Exception as error:
            return [error] if len(batch) == 1 else [self._score_batch([request])[0] for request in batch]
        found, start = [], 0
        for _, completions, _ in batch:
            found.append(rewards[start : start + len(completions)])
            start += len(completions)
        return found

    def close(self):
        """End the thread once it has scored its batch."""
        self._thread.shutdown(wait=True)
