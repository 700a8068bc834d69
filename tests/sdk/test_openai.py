"""The official `openai` SDK against the program: nobody's client is better known, so nothing it does may surprise.

Usage: python test_openai.py PATH-OF-THE-BINARY

Needs the package `openai` only. Starts its own scripted provider; prints one line per case, exits non-zero on failure.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
from pydantic import BaseModel

BINARY = os.path.abspath(sys.argv[1])
CLIENT_KEY = "client-key"
PROVIDER_KEY = "sk-secret-provider"
SECONDS = 20


class Provider(BaseHTTPRequestHandler):
    """How it behaves is the first part of the path: /good/v1/chat/completions."""

    protocol_version = "HTTP/1.1"
    hits = {}
    left = threading.Event()
    over = threading.Event()

    def log_message(self, *_):
        pass

    def do_POST(self):
        behaviour = self.path.split("/")[1]
        self.hits[behaviour] = self.hits.get(behaviour, 0) + 1
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {PROVIDER_KEY}":
            return self.whole(401, error("wrong key"))
        getattr(self, "be_" + behaviour)(request)

    def be_good(self, request):
        messages = request["messages"]
        if request.get("tools") and messages[-1]["role"] != "tool":
            self.call_tools(request)
        elif request.get("response_format", {}).get("type") == "json_schema":
            self.say(request, '{"city":"Oslo","degrees":3}')
        elif messages[-1]["role"] == "tool":
            assert messages[-2]["tool_calls"][0]["id"] == messages[-1]["tool_call_id"]
            self.say(request, f"It is {messages[-1]['content']} in Oslo.")
        else:
            self.say(request, f"You said {messages[-1]['content']}.")

    def be_busy(self, _):
        self.whole(429, error("slow down"), {"retry-after": "30"})

    def be_broken(self, _):
        self.whole(500, error("an accident"))

    def be_strict(self, _):
        self.whole(400, error("seed must be a number"))

    def be_corrupt(self, request):
        if request.get("stream"):
            self.stream([{"role": "assistant", "content": ""}], end=b'10\r\ndata: {"cho\xff\xfe')
        else:
            self.whole(200, b'{"choices":[{"index":0,"message":{"role":"assist')
        self.close_connection = True

    def be_cut(self, request):
        self.stream([{"role": "assistant", "content": "Half an ans"}], end=b"")
        self.close_connection = True

    def be_stalled(self, request):
        if request.get("stream"):
            self.stream([{"role": "assistant", "content": ""}], end=b"")
        self.over.wait(SECONDS)
        self.close_connection = True

    def be_endless(self, request):
        try:
            self.stream([{"role": "assistant", "content": "word "}], end=b"")
            while not self.over.wait(0.01):
                self.chunk(b"data: " + json.dumps(piece({"content": "word "})).encode() + b"\n\n")
        except OSError:
            self.left.set()
        self.close_connection = True

    def say(self, request, text):
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        if not request.get("stream"):
            message = {"role": "assistant", "content": text}
            return self.whole(200, completion(message, "stop", usage))
        deltas = [{"role": "assistant", "content": ""}]
        deltas += [{"content": part} for part in re.findall(r"\S+\s*", text)]
        self.stream(deltas, "stop", usage if (request.get("stream_options") or {}).get("include_usage") else None)

    def call_tools(self, request):
        name = request["tools"][0]["function"]["name"]
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": '{"city":"Oslo"}'}}
        if not request.get("stream"):
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            return self.whole(200, completion(message, "tool_calls", None))
        start = {**call, "index": 0, "function": {"name": name, "arguments": ""}}
        deltas = [{"role": "assistant", "content": None, "tool_calls": [start]}]
        for part in ('{"city"', ":", '"Oslo"}'):
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        self.stream(deltas, "tool_calls")

    def whole(self, status, body, headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, deltas, finish=None, usage=None, end=None):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        events = [piece(delta) for delta in deltas]
        if finish:
            events.append(piece({}, finish))
        if usage:
            events.append({**piece({}), "choices": [], "usage": usage})
        for event in events:
            self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
        if end is None:
            self.chunk(b"data: [DONE]\n\n")
            end = b"0\r\n\r\n"
        self.wfile.write(end)
        self.wfile.flush()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def error(message):
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def completion(message, finish, usage):
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {**common("chat.completion"), "choices": [choice], "usage": usage}


def piece(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {**common("chat.completion.chunk"), "choices": [choice]}


def common(kind):
    return {"id": "chatcmpl-1", "object": kind, "created": 1795400000, "model": "real-model"}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """Peers that leave are what some cases are about."""


def backend(name, priority, url, more=""):
    return (
        f"  - priority: {priority}\n    backends:\n      - provider: provider-{name}\n        name: {name}\n"
        f"        api_key: {PROVIDER_KEY}\n        model: model-{name}\n        base_url: {url}\n{more}"
    )


@contextlib.contextmanager
def proxy(*behaviours, top=""):
    """The program with these behaviours as backends, in this order; gives a client."""
    config = f"{top}server: {{api_key: {CLIENT_KEY}}}\nproviders:\n"
    for place, behaviour in enumerate(behaviours, 1):
        url = DEAD_URL if behaviour == "dead" else f"{PROVIDER_URL}/{behaviour}/v1"
        more = "        extra: {timeout: 1}\n" if behaviour == "stalled" else ""
        config += backend(behaviour, place, url, more)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "config.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(config)
        command = [BINARY, "--config", path, "--host", "127.0.0.1", "--port", "0", "--log-level", "debug"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={}, cwd=directory)
        log, ready, url = [], threading.Event(), []

        def read():
            for line in process.stderr:
                log.append(line)
                if found := re.search(r"listening on (http://\S+)", line):
                    url.append(found[1])
                    ready.set()
            ready.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            ready.wait(SECONDS)
            assert url, "the program did not start"
            yield openai.OpenAI(base_url=url[0] + "/v1", api_key=CLIENT_KEY, max_retries=0, timeout=SECONDS)
        except BaseException:
            print("".join(log), file=sys.stderr)
            raise
        finally:
            process.kill()
            process.wait()
            reader.join()
        text = "".join(log)
        assert PROVIDER_KEY not in text and CLIENT_KEY not in text, "a key in the log:\n" + text
        assert "panicked" not in text, "a panic:\n" + text


def ask(client, text="hi", **more):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="aifree", messages=messages, **more)


def text_of(stream):
    return "".join(c.choices[0].delta.content or "" for c in stream)


def case_models():
    with proxy("good") as client:
        models = list(client.models.list())
        assert [m.id for m in models] == ["aifree"], models
        assert client.models.retrieve("aifree").id == "aifree"
        try:
            client.models.retrieve("nope")
            raise AssertionError("found a model that is not there")
        except openai.NotFoundError as e:
            assert e.code == "model_not_found", e.body


def case_create():
    with proxy("good") as client:
        answer = ask(client)
        assert answer.choices[0].message.content == "You said hi.", answer
        assert answer.choices[0].finish_reason == "stop" and answer.usage.total_tokens == 7
        assert answer.provider_name == "good"
        raw = client.chat.completions.with_raw_response.create(model="", messages=[{"role": "user", "content": "x"}])
        assert raw.headers["x-ai-free-swap-backend"] == "good" and raw.headers["x-ai-free-swap-attempts"] == "1"


def case_stream():
    with proxy("good") as client:
        chunks = list(ask(client, stream=True))
        # Sample code everywhere reads `choices[0]` unchecked, so nobody gets a usage chunk who did not ask.
        assert all(c.choices for c in chunks), chunks
        assert text_of(chunks) == "You said hi."
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert all(c.provider_name == "good" for c in chunks)
        assert all(c.usage is None for c in chunks)


def case_stream_helper_with_usage():
    with proxy("good") as client:
        messages = [{"role": "user", "content": "hi"}]
        options = {"include_usage": True}
        with client.chat.completions.stream(model="aifree", messages=messages, stream_options=options) as stream:
            kinds = {event.type for event in stream}
            answer = stream.get_final_completion()
        assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
        assert answer.choices[0].message.content == "You said hi." and answer.usage.total_tokens == 7, answer


def tool_round_trip(client, stream):
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    messages = [{"role": "user", "content": "How is the weather in Oslo?"}]
    if stream:
        with client.chat.completions.stream(model="aifree", messages=messages, tools=tools) as events:
            answer = events.get_final_completion()
    else:
        answer = client.chat.completions.create(model="aifree", messages=messages, tools=tools)
    message = answer.choices[0].message
    call = message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"}), call
    messages += [message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "3 C"}]
    answer = client.chat.completions.create(model="aifree", messages=messages, tools=tools)
    assert answer.choices[0].message.content == "It is 3 C in Oslo.", answer


def case_tools():
    with proxy("good") as client:
        tool_round_trip(client, stream=False)
        tool_round_trip(client, stream=True)


def case_structured_output():
    class Weather(BaseModel):
        city: str
        degrees: int

    with proxy("good") as client:
        messages = [{"role": "user", "content": "weather"}]
        answer = client.chat.completions.parse(model="aifree", messages=messages, response_format=Weather)
        assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=3), answer
        with client.chat.completions.stream(model="aifree", messages=messages, response_format=Weather) as stream:
            answer = stream.get_final_completion()
        assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=3), answer


def expect_error(kind, client, **more):
    try:
        answer = ask(client, **more)
        raise AssertionError(f"expected {kind.__name__}, got {answer}")
    except kind as e:
        assert type(e) is kind, repr(e)
        return e


def case_authentication_error():
    with proxy("good") as client:
        wrong = client.with_options(api_key="wrong")
        for stream in (False, True):
            e = expect_error(openai.AuthenticationError, wrong, stream=stream)
            assert e.type == "auth_error", e.body


def case_bad_request_error():
    with proxy("strict") as client:
        for stream in (False, True):
            e = expect_error(openai.BadRequestError, client, stream=stream)
            assert "seed must be a number" in e.message, e.message


def case_all_failed_error():
    with proxy("dead", "broken") as client:
        for stream in (False, True):
            e = expect_error(openai.InternalServerError, client, stream=stream)
            assert e.status_code == 503 and e.code == "all_providers_failed", e.body
            assert "All configured providers failed" in e.message and "broken" in e.message, e.message


def case_an_answer_that_breaks_off_raises():
    with proxy("cut") as client:
        stream = ask(client, stream=True)
        heard = ""
        try:
            for chunk in stream:
                heard += chunk.choices[0].delta.content or ""
            raise AssertionError("a cut answer looked complete")
        except openai.APIError as e:
            assert heard == "Half an ans" and e.message, (heard, e)


def case_failures_are_invisible():
    for behaviour in ("dead", "busy", "broken", "corrupt", "stalled", "strict"):
        with proxy(behaviour, "good") as client:
            assert text_of(ask(client, stream=True)) == "You said hi.", behaviour
            assert ask(client).provider_name == "good", behaviour
        with proxy(behaviour, "good") as client:
            tool_round_trip(client, stream=True)


def case_leaving_frees_the_provider():
    Provider.left.clear()
    with proxy("endless") as client:
        with ask(client, stream=True) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
        began = time.monotonic()
        assert Provider.left.wait(5), "the provider still works for nobody"
        assert time.monotonic() - began < 2


def case_fifty_streams_at_once():
    async def one(client, number):
        messages = [{"role": "user", "content": f"number {number}"}]
        stream = await client.chat.completions.create(model="aifree", messages=messages, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert text == f"You said number {number}.", text

    async def everyone(base_url):
        async with openai.AsyncOpenAI(base_url=base_url, api_key=CLIENT_KEY, max_retries=0, timeout=SECONDS) as client:
            await asyncio.gather(*(one(client, number) for number in range(50)))

    with proxy("busy", "good") as client:
        asyncio.run(everyone(str(client.base_url)))


def main():
    failed = 0
    for name, case in list(globals().items()):
        if not name.startswith("case_"):
            continue
        began = time.monotonic()
        try:
            case()
            told = "ok"
        except Exception:
            failed += 1
            told = "FAILED\n" + traceback.format_exc()
        print(f"{name.removeprefix('case_')}: {told} ({time.monotonic() - began:.2f} s)", flush=True)
    Provider.over.set()
    print(f"openai {openai.__version__}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Provider)
    PROVIDER_URL = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Bound and never listening: refuses, and nobody else can get the port.
    dead = socket.socket()
    dead.bind(("127.0.0.1", 0))
    DEAD_URL = f"http://127.0.0.1:{dead.getsockname()[1]}/v1"
    sys.exit(main())
