"""A small embedding server for tests: the embeddings API of OpenAI."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


class Handler(BaseHTTPRequestHandler):
    """The embeddings API of OpenAI; a text's vector is drawn by its bytes, and by the server's seed."""

    def do_GET(self):
        self.answer(200, {"data": [{"id": "tiny"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server.state
        state["requests"].append((body["model"], len(body["input"]), self.headers["Authorization"]))
        state["texts"].extend(body["input"])
        time.sleep(state["seconds"])
        if state["failures"]:
            return self.answer(state["failures"].pop(), {})
        rows = [{"index": row, "embedding": vector(text, state["seed"])} for row, text in enumerate(body["input"])]
        self.answer(200, {"data": rows[::-1]})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *given):
        pass


def vector(text, seed):
    return np.random.default_rng([seed, *text.encode()]).normal(size=8).tolist()


@contextmanager
def serving(**state):
    state = {"seed": 0, "failures": [], "requests": [], "texts": [], "seconds": 0, **state}
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.state = state
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1", state
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
