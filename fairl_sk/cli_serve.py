"""``fairl-sk serve`` and ``fairl-sk check``: a saved reward, while and before a model is aligned with it."""

import os
import socket
import sys
from contextlib import suppress
from types import SimpleNamespace

import click
import numpy as np

from . import __version__

TOKEN = "FAIRL_SK_TOKEN"


def of_reward(command):
    """Add the options that say which reward a file holds."""
    for option in (
        click.option("--clip", type=float, metavar="X", help="Cut rewards off at -X and X, after scaling."),
        click.option("--with-prompts", is_flag=True, help="The pipeline was fitted on prompt and output joined."),
        click.option("--pairs", metavar="FILE", help="The training pairs: rewards get their mean 0 and deviation 1."),
        click.argument("pipeline"),
    ):
        command = option(command)
    return command


@click.command()
@of_reward
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option("--missing-reward", type=float, metavar="X", help="Reward of empty completions. [default: none]")
@click.option("--max-texts", type=click.IntRange(1), default=4096, show_default=True, help="Completions of a request.")
@click.option("--max-megabytes", type=click.IntRange(1), default=8, show_default=True, help="Size of a request.")
@click.option("--body-timeout", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds to send it.")
def serve(**options):
    """Serve the reward of a pipeline over HTTP, for trainers in other processes or on other machines.

    PIPELINE is a file that an audit or skops wrote; it may hold types of known libraries only. The page /docs of the
    server shows all requests. If the environment variable FAIRL_SK_TOKEN is set, requests have to send it:
    'Authorization: Bearer TOKEN'. No text is logged. An interrupt answers the requests that have arrived, and stops.
    """
    options = SimpleNamespace(**options)
    from .extras import import_extra

    uvicorn = import_extra("uvicorn", "serve", "fairl-sk serve")
    from .serving.app import MEBIBYTE, make_app

    reward, outputs = load_reward(options)
    listening = _listen(options.host, options.port)
    known, is_novel = None, None
    if outputs is not None:
        groups = outputs.pop("groups")
        known = [value for value in reward(**outputs) if value is not None]
        is_novel = novelty_test(outputs["completions"], groups)
    app = make_app(
        reward,
        info=describe(options.pipeline, reward),
        token=os.environ.get(TOKEN) or None,
        training_range=None if known is None else (min(known), max(known)),
        is_novel=is_novel,
        missing_reward=options.missing_reward,
        max_body=options.max_megabytes * MEBIBYTE,
        max_texts=options.max_texts,
        body_timeout=options.body_timeout,
    )
    config = uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=60)
    host, port = listening.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"Serving {reward.name} at {where} (requests: {where}/docs). Ctrl+C stops.", file=sys.stderr, flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host, port):
    """A socket, before anything takes long."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        advice = "Is another server running? Name another --port (0: a free one) or --host."
        raise OSError(f"Cannot listen on --host {host} --port {port}: {error.strerror}. {advice}") from error
    return listening


@click.command()
@of_reward
@click.option("--completions", required=True, metavar="FILE", help="Records with a prompt and a completion.")
@click.option("--beta", type=click.FloatRange(0, min_open=True), metavar="X", help="KL coefficient of RLOO.")
def check(**options):
    """Check the reward of a pipeline on completions of the model that is to be aligned with it.

    FILE is JSON Lines, CSV, TSV or Parquet with the columns prompt and completion, several completions a prompt. The
    status is 1 if a measure is not as expected.
    """
    options = SimpleNamespace(**options)
    from .export import check_reward

    reward, _ = load_reward(options)
    prompts, completions = read_completions(options.completions)
    found = check_reward(reward, prompts, completions, beta=options.beta)
    rows = [[row["measure"], _shown(row["value"]), row["expected"], "" if row["ok"] else "!"] for row in found.table]
    rows.insert(0, ["measure", "value", "expected", ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return int(bool(found.warnings))


def _shown(value):
    return "-" if value is None else f"{value:.4g}"


def read_completions(path):
    """Prompts and completions of a file.

    Parameters
    ----------
    path : str

    Returns
    -------
    prompts, completions : list

    Raises
    ------
    ValueError, OSError
        If the file cannot be read, or has no such columns.
    """
    from .datasets.files import check_path, read_table

    table = read_table(check_path(path), "utf-8", True, None)
    missing = [name for name in ("prompt", "completion") if name not in table.columns]
    if missing:
        found = f"{path}: found the columns {list(table.columns)}"
        raise ValueError(f"{found}. Expected prompt and completion, one record for each completion.")
    return list(table.columns["prompt"]), list(table.columns["completion"])


def load_reward(options):
    """The reward function of a saved pipeline.

    Parameters
    ----------
    options : namespace
        ``pipeline``, ``pairs``, ``with_prompts`` and ``clip`` of the command line.

    Returns
    -------
    reward : RewardFunction
    outputs : dict or None
        ``prompts``, ``completions`` and ``groups`` of the training outputs, if they are known.
    """
    from .audit import load_pipeline
    from .export import RewardFunction

    pipeline = load_pipeline(options.pipeline)
    settings = {"prompt_template": "join" if options.with_prompts else "{output}", "clip": options.clip}
    if options.pairs is None:
        return RewardFunction(pipeline, center=0.0, scale=1.0, **settings), None
    import pandas as pd

    from .datasets import load_preferences

    data = load_preferences(options.pairs)
    if data.data.ndim != 2:
        raise ValueError(f"--pairs {options.pairs} holds single outputs. Expected pairs.")
    texts, prompts = data.data, None
    if options.with_prompts:
        texts = pd.DataFrame({"prompt": data.prompt, "chosen": data.data[:, 0], "rejected": data.data[:, 1]})
        prompts = [prompt for prompt in data.prompt for _ in range(2)]
    reward = RewardFunction(pipeline, texts, data.target, **settings)
    completions, groups = data.data.ravel().tolist(), np.repeat(data.groups, 2)
    return reward, {"prompts": prompts, "completions": completions, "groups": groups}


def novelty_test(outputs, groups):
    """A test whether texts are unlike the training outputs, as the audit's ``--deploy`` measures it.

    A text is novel if it is farther from four fifths of the training outputs than 95 % of the other fifth.

    Parameters
    ----------
    outputs : list of str
    groups : array-like
        Of the outputs; whole groups are in the fifth.

    Returns
    -------
    is_novel : callable or None
        Texts (n,) -> bool (n,). None for so few outputs that the fifth calibrates no distance.
    """
    from sklearn.model_selection import GroupShuffleSplit

    from .audit.novelty import LEVEL, MAX_ROWS, MIN_OUTPUTS, TextDistance

    outputs = np.array(outputs, dtype=object)
    train, held = next(GroupShuffleSplit(1, test_size=0.2, random_state=0).split(outputs, groups=groups))
    if len(held) < MIN_OUTPUTS:
        print(f"Novel texts are not counted: found {len(outputs)} training outputs.", file=sys.stderr)
        return None
    distance = TextDistance(outputs[train])
    threshold = np.quantile(distance.measure(outputs[held[:MAX_ROWS]])[0], 1 - LEVEL, method="higher")
    return lambda texts: distance.measure(texts)[0] > threshold


def describe(path, reward):
    """What ``/info`` tells.

    Parameters
    ----------
    path : str
        Of the pipeline.
    reward : RewardFunction

    Returns
    -------
    info : dict
    """
    import hashlib
    from pathlib import Path

    return {
        "name": reward.name,
        "file": Path(path).name,
        "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "pipeline": " ".join(repr(reward.pipeline).split()),
        "prompt_template": reward.prompt_template,
        "center": reward.center,
        "scale": reward.scale,
        "clip": reward.clip,
        "version": __version__,
    }
