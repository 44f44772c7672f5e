"""The web application around a reward: its addresses, and what requests and answers look like."""

import asyncio
import time
from contextlib import asynccontextmanager
from typing import Annotated, Any

from ..extras import import_extra
from .batches import Batcher, BusyError
from .guard import Guard
from .monitor import Monitor

import_extra("fastapi", "serve", "fairl-sk serve")

from fastapi import Depends, FastAPI, Request, Response  # noqa: E402
from fastapi.exceptions import RequestValidationError  # noqa: E402
from fastapi.responses import JSONResponse  # noqa: E402
from fastapi.security import HTTPBearer  # noqa: E402
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr  # noqa: E402

__all__ = ["make_app"]

MEBIBYTE = 2**20
MAX_COMPARED = 64  # completions of a request that are compared with the training outputs


class Closed(BaseModel):
    """A request: fields that nobody reads are refused."""

    model_config = ConfigDict(extra="forbid")


class RewardRequest(Closed):
    """Completions, each with its prompt if the reward reads prompts."""

    completions: Annotated[list[StrictStr | list[dict[str, Any]]], Field(min_length=1)]
    prompts: list[StrictStr | list[dict[str, Any]]] | None = None


class Rewards(BaseModel):
    """A reward for each completion; null for an empty one."""

    rewards: list[float | None]


class OpenRLHFRequest(Closed):
    """What OpenRLHF 0.8 sends (openrlhf/utils/remote_rm_utils.py): a query is prompt and completion in one text."""

    query: Annotated[list[StrictStr], Field(min_length=1)]
    prompts: list[StrictStr] | None = None
    labels: list[Any] | None = None


class OpenRLHFRewards(BaseModel):
    """Rewards for the loss, scores for its filter of prompts, and figures that it logs."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, float] = {}


OneText = Annotated[list[StrictStr], Field(min_length=1, max_length=1)]


class PredictRequest(Closed):
    """What text-embeddings-inference 1.8 takes (docs/openapi.json, PredictRequest)."""

    inputs: (
        StrictStr
        | Annotated[
            list[StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=1)]], Field(min_length=1)
        ]
    )
    raw_scores: StrictBool = True
    truncate: StrictBool = False


class Score(BaseModel):
    """A reward as the score of a label."""

    label: str = "reward"
    score: float


class Message(BaseModel):
    """Why a request was refused."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Message, "description": "The body ended early, or is no JSON"},
    401: {"model": Message, "description": "No token, or a wrong one"},
    408: {"model": Message, "description": "The body arrived too slowly"},
    413: {"model": Message, "description": "The body or the list is too long"},
    422: {"model": Message, "description": "The texts cannot be scored"},
    503: {"model": Message, "description": "Too many completions wait"},
}


class RefusedError(Exception):
    """A request that cannot be answered."""

    def __init__(self, status, detail):
        super().__init__(detail)
        self.status, self.detail = status, detail


def make_app(
    reward,
    *,
    info=None,
    token=None,
    training_range=None,
    is_novel=None,
    missing_reward=None,
    max_body=8 * MEBIBYTE,
    max_texts=4096,
    body_timeout=30.0,
):
    """Make the application that ``fairl-sk serve`` runs.

    Parameters
    ----------
    reward : callable
        `fairl_sk.export.RewardFunction`, or another reward function of TRL.
    info : dict, default=None
        What ``/info`` tells of the reward.
    token : str, default=None
        What requests have to send. None: nothing.
    training_range : tuple of float, default=None
        Lowest and highest reward of the training outputs: rewards outside are counted.
    is_novel : callable, default=None
        Outputs (n,) -> whether each is unlike the training outputs. It is asked in a thread about one request a
        second at most, and counted.
    missing_reward : float, default=None
        Reward of a completion that has none, for trainers that need a number. None: such requests are refused.
    max_body : int, default=8388608
        The most bytes of a request.
    max_texts : int, default=4096
        The most completions of a request. Twice as many may wait.
    body_timeout : float, default=30.0
        Seconds in which a request has to arrive.

    Returns
    -------
    app : FastAPI

    Raises
    ------
    ImportError
        If the extra "serve" is not installed.
    """
    monitor = Monitor(*(training_range or (None, None)), is_novel)
    batcher = Batcher(reward, max_texts, 2 * max_texts)

    @asynccontextmanager
    async def lifespan(_):
        yield
        batcher.close()

    needs_token = [Depends(HTTPBearer(auto_error=False))] if token is not None else []  # Guard checks; this documents
    app = FastAPI(title="fairl-sk reward", lifespan=lifespan, responses=REFUSALS, dependencies=needs_token)
    app.add_middleware(
        Guard, token=token, max_body=max_body, body_timeout=body_timeout, observe=monitor.observe_request
    )
    _answer_errors(app)

    scoring = _Scoring(batcher, monitor, max_texts, missing_reward)
    _add_scoring(app, scoring)
    _add_pages(app, batcher, monitor, info or {})
    return app


class _Scoring:
    """Rewards of one request, after checks that the reward function does not make."""

    def __init__(self, batcher, monitor, max_texts, missing_reward):
        self.batcher, self.monitor = batcher, monitor
        self.max_texts, self.missing_reward = max_texts, missing_reward
        self._comparison, self._next_comparison = None, 0.0

    async def score(self, prompts, completions):
        """A reward or None for each completion."""
        if len(completions) > self.max_texts:
            found = f"Found {len(completions)} completions"
            raise RefusedError(413, f"{found}. Expected at most {self.max_texts}: send several requests.")
        if prompts is not None and len(prompts) != len(completions):
            found = f"Found {len(prompts)} prompts and {len(completions)} completions"
            raise RefusedError(422, f"{found}. Expected one prompt for each completion, repeated if need be.")
        rewards = await self.batcher.score(prompts, completions)
        self.monitor.observe_rewards(completions, rewards)
        self._compare(completions[:MAX_COMPARED])
        return rewards

    def _compare(self, completions):
        """Compare completions with the training outputs, without delay for the answer."""
        is_busy = self._comparison is not None and not self._comparison.done()
        if self.monitor.is_novel is not None and not is_busy and time.monotonic() >= self._next_comparison:
            self._next_comparison = time.monotonic() + 1
            self._comparison = asyncio.create_task(asyncio.to_thread(self.monitor.compare_texts, completions))

    async def numbers(self, prompts, completions):
        """A number for each completion."""
        rewards = await self.score(prompts, completions)
        if None in rewards and self.missing_reward is None:
            found = f"Completion {rewards.index(None)} has no reward: it is empty"
            raise RefusedError(422, f"{found}. Start the server with --missing-reward NUMBER.")
        return [self.missing_reward if value is None else value for value in rewards]


def _add_scoring(app, scoring):
    """The addresses that give rewards, each in the form of some trainers."""

    @app.post("/reward")
    async def reward_of_completions(request: RewardRequest) -> Rewards:
        """Rewards of completions, in their order."""
        return Rewards(rewards=await scoring.score(request.prompts, request.completions))

    @app.post("/get_reward")
    async def reward_for_openrlhf(request: OpenRLHFRequest) -> OpenRLHFRewards:
        """The same for OpenRLHF: the completion is what follows the prompt in the query."""
        rewards = await scoring.numbers(request.prompts, _completions_of(request))
        return OpenRLHFRewards(rewards=rewards, scores=rewards)

    @app.post("/predict")
    async def predict(request: PredictRequest) -> list[Score] | list[list[Score]]:
        """The same for clients of text-embeddings-inference."""
        if not request.raw_scores:
            raise RefusedError(422, "Found raw_scores=false. Expected true: a reward is no probability.")
        if request.truncate:
            raise RefusedError(422, "Found truncate=true. Expected false: the encoder decides about long texts.")
        if isinstance(request.inputs, str):
            return [Score(score=(await scoring.numbers(None, [request.inputs]))[0])]
        texts = [text if isinstance(text, str) else text[0] for text in request.inputs]
        return [[Score(score=value)] for value in await scoring.numbers(None, texts)]


def _add_pages(app, batcher, monitor, info):
    """What the server tells of itself."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/info")
    async def tell_info() -> dict[str, Any]:
        """What the reward is: its file, checksum and scale."""
        return {"completions_waiting": batcher.n_waiting, **info}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(monitor.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _completions_of(request):
    """The completions of queries: what follows their prompts."""
    if request.prompts is None:
        return request.query
    if len(request.prompts) != len(request.query):
        found = f"Found {len(request.prompts)} prompts and {len(request.query)} queries"
        raise RefusedError(422, f"{found}. Expected as many of each.")
    for row, (query, prompt) in enumerate(zip(request.query, request.prompts, strict=True)):
        if not query.startswith(prompt):
            raise RefusedError(422, f"Query {row} does not begin with its prompt, so its completion is unknown.")
    return [query[len(prompt) :] for query, prompt in zip(request.query, request.prompts, strict=True)]


def _answer_errors(app):
    """Errors become messages without the texts of the request."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError):
        return JSONResponse({"detail": error.detail}, error.status)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError):
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})

    @app.exception_handler(ValueError)
    async def unreadable(_: Request, error: ValueError):
        return JSONResponse({"detail": " ".join(str(error).split())}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError):
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"] if part != "body") or "the body"
        return JSONResponse({"detail": f"{place}: {found['msg']}."}, 400 if found["type"] == "json_invalid" else 422)
