"""The served reward: the same values as in process, clear refusals, and a server that outlives bad clients."""

import json
import pickle
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import numpy as np
import pandas as pd
import pytest
import schemathesis
import skops.io
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from fairl_sk import MaxEntropyIRL, PairTransformer
from fairl_sk.cli import main
from fairl_sk.export import RewardFunction
from fairl_sk.serving import RemoteReward
from fairl_sk.serving.app import make_app
from fairl_sk.serving.verl import compute_score, compute_scores

TOKEN = "s3cret"


@pytest.fixture(scope="module")
def reward(detox):
    features = PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(10, random_state=0)))
    pipeline = make_pipeline(features, MaxEntropyIRL(random_state=0)).fit(detox.data, detox.target)
    return RewardFunction(pipeline, detox.data, detox.target, prompt_template="{output}")


@pytest.fixture(scope="module")
def url(reward, running):
    with running(make_app(reward, info={"name": "kindness"}, max_body=100_000, max_texts=500, body_timeout=0.5)) as it:
        yield it


def post(url, body, token=None):
    """Status and answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def get(url):
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode()


def test_a_remote_reward_gives_what_the_reward_gives(reward, url, detox):
    texts = [*detox.data.ravel()[:60].tolist(), "", "é 你好 🙂"]
    remote = pickle.loads(pickle.dumps(RemoteReward(url, name="kindness")))
    assert remote(completions=texts) == reward(completions=texts) and remote.__name__ == "kindness"
    messages = [[{"role": "assistant", "content": text}] for text in texts[:5]]
    assert remote(prompts=["Hello."] * 5, completions=messages, other=[1] * 5) == reward(completions=texts[:5])


def test_each_trainer_is_answered_in_its_own_form(reward, url, monkeypatch):
    texts = ["thank you kindly", "you fool"]
    expected = reward(completions=texts)
    query = {"query": [f"Hello. {text}" for text in texts], "prompts": ["Hello. "] * 2, "labels": ["", ""]}
    status, found = post(f"{url}/get_reward", query)
    assert status == 200 and found["rewards"] == found["scores"] == expected
    assert post(f"{url}/get_reward", {"query": texts})[1]["rewards"] == expected
    scores = [[{"label": "reward", "score": value}] for value in expected]
    assert post(f"{url}/predict", {"inputs": texts}) == (200, scores)
    assert post(f"{url}/predict", {"inputs": [[text] for text in texts]}) == (200, scores)
    assert post(f"{url}/predict", {"inputs": texts[0]}) == (200, scores[0])
    monkeypatch.setenv("FAIRL_SK_REWARD_URL", url)
    assert compute_scores(["data"] * 2, texts, [None] * 2, [{"index": 0}] * 2) == expected
    assert compute_score("data", texts[0], None, {"prompt": "Hello."}, url=url) == expected[0]
    monkeypatch.delenv("FAIRL_SK_REWARD_URL")
    with pytest.raises(ValueError, match="Set FAIRL_SK_REWARD_URL"):
        compute_score("data", texts[0])


def test_many_clients_get_their_own_rewards(reward, url, detox):
    texts = detox.data.ravel().tolist()
    expected = dict(zip(texts, reward(completions=texts), strict=True))

    def ask(client):
        rng = np.random.default_rng(client)
        remote = RemoteReward(url)
        for _ in range(5):
            some = rng.choice(texts, size=rng.integers(1, 40)).tolist()
            assert remote(completions=some) == pytest.approx([expected[text] for text in some], abs=1e-9)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_requests_that_wait_are_scored_together_and_fail_alone(running):
    calls, go = [], threading.Event()

    def slow(prompts, completions):
        calls.append(list(completions))
        go.wait(10)
        if "bad" in completions:
            raise ValueError("Completion 0 is bad.")
        return [float(len(text)) for text in completions]

    app = make_app(slow, max_texts=6)
    with running(app) as url, ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, f"{url}/reward", {"completions": ["a"]})
        while not calls:
            time.sleep(0.01)
        rest = [
            pool.submit(post, f"{url}/reward", {"completions": [text] * 2}) for text in ("bb", "bad", "ccc", "dd", "e")
        ]
        while json.loads(get(f"{url}/info"))["completions_waiting"] < 11:
            time.sleep(0.01)
        busy = post(f"{url}/reward", {"completions": ["z"] * 3})
        assert busy == (503, {"detail": "11 completions wait. Try again later."})
        patient = pool.submit(RemoteReward(url), None, ["zz"] * 3)  # it tries again
        time.sleep(0.2)
        go.set()
        assert first.result() == (200, {"rewards": [1.0]})
        found = [request.result() for request in rest]
        assert found[1] == (422, {"detail": "Completion 0 is bad."})
        assert [answer["rewards"] for _, answer in [found[0], *found[2:]]] == [[2, 2], [3, 3], [2, 2], [1, 1]]
        assert patient.result() == [2.0] * 3
        assert any(len(call) == 6 for call in calls)  # three requests at once


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("reward", {"completions": []}, 422, "completions: List should have at least 1 item"),
        ("reward", {"completions": ["a"], "colour": 1}, 422, "colour: Extra inputs are not permitted"),
        ("reward", {"completions": [1.5]}, 422, "valid string"),
        ("reward", {"completions": ["a"], "prompts": ["b", "c"]}, 422, "2 prompts and 1 completions"),
        ("reward", {"completions": [[{"role": "user", "content": "a"}]]}, 422, "turn of the assistant"),
        ("reward", {"completions": ["a"] * 501}, 413, "501 completions. Expected at most 500"),
        ("reward", b'{"completions": ["a"', 400, "JSON decode error"),
        ("reward", b'{"completions": [NaN]}', 422, "valid string"),
        ("reward", b"[" * 50_000, 400, "parsing the body"),
        ("reward", {"completions": ["a" * 100_000]}, 413, "Expected at most 100000 bytes"),
        ("get_reward", {"query": ["ab"], "prompts": ["b"]}, 422, "Query 0 does not begin with its prompt"),
        ("get_reward", {"query": [""], "prompts": [""]}, 422, "--missing-reward"),
        ("predict", {"inputs": "a", "raw_scores": False}, 422, "a reward is no probability"),
    ],
)
def test_what_cannot_be_scored_is_refused(url, path, body, status, message):
    found = post(f"{url}/{path}", body)
    assert found[0] == status and message in found[1]["detail"], found
    assert "aaaa" not in found[1]["detail"]  # no text comes back


def test_a_missing_reward_can_be_a_number(reward, running):
    with running(make_app(reward, missing_reward=-3.0)) as url:
        assert post(f"{url}/get_reward", {"query": [""]})[1]["rewards"] == [-3.0]
        assert post(f"{url}/reward", {"completions": [""]})[1]["rewards"] == [None]


def test_clients_that_send_half_a_request_or_too_much_harm_nobody(url):
    host, port = url.removeprefix("http://").split(":")
    head = b"POST /reward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    for client in slow:
        client.sendall(head % 1000 + b"{")
    huge = socket.create_connection((host, int(port)))
    huge.sendall(head % 100_000_000)  # refused before it is sent
    assert b"413" in huge.recv(100)
    chunked = socket.create_connection((host, int(port)))
    chunked.sendall(head.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked"))
    chunked.sendall(b"1d4c0\r\n" + b"a" * 120_000)
    assert b"413" in chunked.recv(100)
    gone = socket.create_connection((host, int(port)))
    gone.sendall(head % 1000 + b"{")
    gone.close()
    started = time.perf_counter()
    assert post(f"{url}/reward", {"completions": ["thank you"]})[0] == 200
    assert time.perf_counter() - started < 5
    assert all(b"408" in client.recv(100) for client in slow)
    for client in (*slow, huge, chunked):
        client.close()


def test_the_token_is_asked_for_everywhere_but_at_health(reward, running):
    with running(make_app(reward, token=TOKEN)) as url:
        body = {"completions": ["thank you"]}
        assert post(f"{url}/reward", body)[0] == post(f"{url}/reward", body, token="other")[0] == 401
        assert post(f"{url}/reward", body, token=TOKEN)[0] == 200
        assert RemoteReward(url, token=TOKEN)(completions=["thank you"]) == reward(completions=["thank you"])
        with pytest.raises(ValueError, match="refused the request, 401: Found no token"):
            RemoteReward(url)(completions=["thank you"])
        assert json.loads(get(f"{url}/health")) == {"status": "ok"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(f"{url}/metrics")


def figures_with(url, line):
    """The server's figures, when they hold a line: texts are compared beside the answers."""
    deadline = time.monotonic() + 20
    while line not in (figures := get(f"{url}/metrics")):
        assert time.monotonic() < deadline, figures
        time.sleep(0.02)
    return figures


def test_the_command_counts_texts_unlike_the_training_outputs(reward, detox, running, tmp_path, monkeypatch):
    """Of --pairs: at most one in ten training outputs, and all texts of another language."""
    apps, file, pairs = [], tmp_path / "reward.skops", tmp_path / "pairs.csv"
    skops.io.dump(reward.pipeline, file)
    ordered = np.where(detox.target[:, None] == 1, detox.data, detox.data[:, ::-1])
    pd.DataFrame(ordered, columns=["chosen", "rejected"]).to_csv(pairs, index=False)

    def keep_app(server, sockets):
        apps.append(server.config.app)
        sockets[0].close()

    with monkeypatch.context() as patch:
        patch.setattr("uvicorn.Server.run", keep_app)
        assert main(["serve", str(file), "--pairs", str(pairs), "--port", "0"]) == 0
    texts = [f"Добрый день, номер {number}" for number in range(30)] + detox.data.ravel()[:30].tolist()
    with running(apps[0]) as url:
        post(f"{url}/reward", {"completions": texts})
        figures = figures_with(url, "fairl_texts_compared_total 60.0")
    (line,) = (line for line in figures.splitlines() if line.startswith("fairl_texts_novel_total"))
    assert 30 <= float(line.split()[1]) <= 33


def test_the_figures_show_a_reward_that_is_exploited(running):
    values = {"a": 0.0, "b": 0.0, "c": 9.0, "": None}

    def reward(prompts, completions):
        return [values[text] for text in completions]

    def is_novel(texts):
        return texts == "c"

    with running(make_app(reward, training_range=(-1.0, 1.0), is_novel=is_novel)) as url:
        post(f"{url}/reward", {"completions": ["a", "b", "c", "", "a"]})
        figures = figures_with(url, "fairl_texts_novel_total 1.0")
    for line in (
        "rewards_total 5.0",
        "rewards_missing_total 1.0",
        "rewards_tied_total 3.0",
        "texts_compared_total 4.0",
    ):
        assert f"fairl_{line}" in figures
    assert "fairl_rewards_outside_total 1.0" in figures and "fairl_reward_value_sum 9.0" in figures
    assert 'fairl_requests_total{path="/reward",status="200"} 1.0' in figures


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of schemathesis' own dependencies
def test_no_request_that_the_api_page_allows_or_forbids_breaks_the_server(url):
    """Schemathesis makes requests of the OpenAPI page: no status of 500 or more, and answers as they are described."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    checks = [schemathesis.checks.not_a_server_error, schemathesis.checks.response_schema_conformance]
    for operation in schema.get_all_operations():

        @hypothesis.settings(max_examples=8, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(case=operation.ok().as_strategy())
        def send(case):
            case.call_and_validate(checks=checks)

        send()
    assert post(f"{url}/reward", {"completions": ["thank you"]})[0] == 200


def test_a_server_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError, match="no reward in 1 tries.*Is the server running"):
        RemoteReward(url, n_tries=1)(completions=["a"])
    for parameters, message in (({"url": "8000"}, "Expected an address"), ({"timeout": 0}, "above 0")):
        with pytest.raises(ValueError, match=message):
            RemoteReward(**{"url": url, **parameters})


def test_the_command_says_what_is_wrong_before_it_serves(reward, tmp_path, capsys):
    file = tmp_path / "reward.skops"
    skops.io.dump(reward.pipeline, file)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", str(file), "--port", str(taken.getsockname()[1])]) == 2
    assert "Name another --port" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "none.skops")]) == 2
    assert "There is no file" in capsys.readouterr().err
    (tmp_path / "broken.skops").write_bytes(b"no archive")
    assert main(["serve", str(tmp_path / "broken.skops")]) == 2
    assert "is not a file that skops can read" in capsys.readouterr().err


@pytest.mark.filterwarnings("default:.*of the groups|The reward|.*of the completions|.*buys")
def test_the_check_as_a_command(reward, tmp_path, capsys, detox):
    file, completions = tmp_path / "reward.skops", tmp_path / "completions.jsonl"
    skops.io.dump(reward.pipeline, file)
    table = pd.DataFrame({"prompt": np.repeat(["Hello.", "Bye."], 20), "completion": detox.data.ravel()[:40]})
    table.to_json(completions, orient="records", lines=True)
    pairs = tmp_path / "pairs.jsonl"
    ordered = np.where(detox.target[:, None] == 1, detox.data, detox.data[:, ::-1])
    pd.DataFrame(ordered, columns=["chosen", "rejected"]).to_json(pairs, orient="records", lines=True)
    assert main(["check", str(file), "--completions", str(completions), "--pairs", str(pairs)]) in (0, 1)
    assert "spread" in capsys.readouterr().out
    table.assign(completion="same").to_json(completions, orient="records", lines=True)
    assert main(["check", str(file), "--completions", str(completions)]) == 1
    assert "The reward is the same within every group" in capsys.readouterr().err
    table.rename(columns={"completion": "text"}).to_json(completions, orient="records", lines=True)
    assert main(["check", str(file), "--completions", str(completions)]) == 2
    assert "Expected prompt and completion" in capsys.readouterr().err
