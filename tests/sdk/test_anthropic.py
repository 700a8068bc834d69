"""The official `anthropic` SDK, and the Responses and structured outputs of `openai`, against the program.

Usage: python test_anthropic.py PATH-OF-THE-BINARY

Needs the packages `anthropic` and `openai`. Starts its own scripted provider, which speaks both protocols; prints one
line per case, exits non-zero on failure. Every case runs over a backend of each protocol.
"""

import base64
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

import anthropic
import openai
from pydantic import BaseModel

BINARY = os.path.abspath(sys.argv[1])
CLIENT_KEY = "client-key"
PROVIDER_KEY = "sk-secret-provider"
SECONDS = 20
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n not much of a picture").decode()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ABOUT = "Says how the weather is."


class Weather(BaseModel):
    city: str
    degrees: int


class Provider(BaseHTTPRequestHandler):
    """How it behaves is the first part of the path: /good/v1/messages."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        behaviour = self.path.split("/")[1]
        self.speaks_anthropic = "/messages" in self.path
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers["x-api-key"] if self.speaks_anthropic else self.headers["authorization"]
        if key not in (PROVIDER_KEY, f"Bearer {PROVIDER_KEY}"):
            return self.error(401, "authentication_error", "wrong key")
        if "/count_tokens" in self.path:
            return self.whole(200, {"input_tokens": 42})
        getattr(self, "be_" + behaviour)(request)

    def be_good(self, request):
        """Looks at the request in its own words, and says what it has seen."""
        last = request["messages"][-1]
        seen = json.dumps(last["content"])
        result = last["role"] == "tool" or '"tool_result"' in seen
        # A model that knows no schemas is asked for one in words.
        in_words = "fit this JSON schema" in json.dumps(request.get("system"))
        if in_words or request.get("response_format", {}).get("type") == "json_schema":
            return self.say(request, '{"city":"Oslo","degrees":3}')
        if result:
            assert "3 C" in seen and self.ids_agree(request["messages"]), request
            return self.say(request, "It is 3 C in Oslo.")
        if request.get("tools"):
            return self.say(request, "One moment.", call=True)
        if PNG in seen:
            return self.say(request, "A picture.")
        if "puzzle" in seen:
            assert not self.speaks_anthropic or request["thinking"]["type"] == "enabled", request
            return self.say(request, "It is 42.", thinking="Let me count.")
        words = re.findall(r"(?:hi|again)", json.dumps(request["messages"]))
        self.say(request, f"You said {' and '.join(words)}.")

    def ids_agree(self, messages):
        call, result = messages[-2], messages[-1]
        if not self.speaks_anthropic:
            return call["tool_calls"][0]["id"] == result["tool_call_id"]
        used = [block["id"] for block in call["content"] if block["type"] == "tool_use"]
        return used == [block["tool_use_id"] for block in result["content"]]

    def be_busy(self, _):
        self.error(429, "rate_limit_error", "slow down", {"retry-after": "30"})

    def be_overloaded(self, _):
        self.error(529, "overloaded_error", "Overloaded")

    def be_strict(self, _):
        self.error(400, "invalid_request_error", "top_k: must be below 500")

    def be_silent(self, request):
        self.say(request, "")

    def be_dying(self, request):
        """Fails in the stream, before it has said anything."""
        if not request.get("stream"):
            return self.error(500, "api_error", "an accident")
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        start = self.anthropic_events("", None, False)[:1] if self.speaks_anthropic else []
        self.stream([*start, ("error" if self.speaks_anthropic else None, error)])

    def be_cut(self, request):
        """Breaks off in the middle of its words."""
        events = self.events("Half an answer.", None, False)
        self.stream(events[: 3 if self.speaks_anthropic else 2], end=b"")
        self.close_connection = True

    def say(self, request, text, thinking=None, call=False):
        if request.get("stream"):
            return self.stream(self.events(text, thinking, call))
        self.whole(200, self.message(text, thinking, call) if self.speaks_anthropic else completion(text, thinking, call))

    def events(self, text, thinking, call):
        return self.anthropic_events(text, thinking, call) if self.speaks_anthropic else chunks(text, thinking, call)

    def message(self, text, thinking, call):
        content = [{"type": "thinking", "thinking": thinking, "signature": "c2ln"}] if thinking else []
        content += [{"type": "text", "text": text}] if text else []
        if call:
            content.append({"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}})
        usage = {"input_tokens": 2, "cache_read_input_tokens": 1, "cache_creation_input_tokens": 0, "output_tokens": 4}
        stop = "tool_use" if call else "end_turn"
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "real-claude", "content": content}
        return {**head, "stop_reason": stop, "stop_sequence": None, "usage": usage}

    def anthropic_events(self, text, thinking, call):
        whole = self.message(text, thinking, call)
        events = [{"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}]
        for index, block in enumerate(whole["content"]):
            if block["type"] == "text":
                empty, deltas = {"type": "text", "text": ""}, [{"type": "text_delta", "text": t} for t in words(text)]
            elif block["type"] == "thinking":
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": t} for t in words(thinking)]
                deltas.append({"type": "signature_delta", "signature": "c2ln"})
            else:
                empty = {**block, "input": {}}
                deltas = [{"type": "input_json_delta", "partial_json": t} for t in ('{"city"', ':"Oslo"}')]
            events.append({"type": "content_block_start", "index": index, "content_block": empty})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 4}})
        return [(e["type"], e) for e in [*events, {"type": "message_stop"}]]

    def error(self, status, kind, message, headers=()):
        error = {"type": kind, "message": message}
        self.whole(status, {"type": "error", "error": error} if self.speaks_anthropic else {"error": error}, headers)

    def whole(self, status, body, headers=()):
        body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, events, end=b"0\r\n\r\n"):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for name, data in events:
            text = data if isinstance(data, str) else json.dumps(data)
            frame = (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(frame.encode()), frame.encode()))
            self.wfile.flush()
        self.wfile.write(end)
        self.wfile.flush()


USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 1},
}


def words(text):
    return re.findall(r"\S+\s*", text)


def completion(text, thinking, call):
    message = {"role": "assistant", "content": text}
    if thinking:
        message["reasoning_content"] = thinking
    if call:
        function = {"name": "get_weather", "arguments": '{"city":"Oslo"}'}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if call else "stop", "logprobs": None}
    return {**common("chat.completion"), "choices": [choice], "usage": USAGE}


def chunks(text, thinking, call):
    deltas = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": part} for part in words(thinking or "")]
    deltas += [{"content": part} for part in words(text)]
    if call:
        start = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        deltas.append({"tool_calls": [{"index": 0, **start}]})
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in ('{"city"', ':"Oslo"}')]
    finish = "tool_calls" if call else "stop"
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    events = [{**common("chat.completion.chunk"), "choices": [choice]} for choice in choices]
    events.append({**common("chat.completion.chunk"), "choices": [], "usage": USAGE})
    return [(None, event) for event in [*events, "[DONE]"]]


def common(kind):
    return {"id": "chatcmpl-1", "object": kind, "created": 1795400000, "model": "real-model"}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """Peers that leave are what some cases are about."""


class Clients:
    def __init__(self, url):
        more = {"api_key": CLIENT_KEY, "max_retries": 0, "timeout": SECONDS}
        self.anthropic = anthropic.Anthropic(base_url=url, **more)
        self.openai = openai.OpenAI(base_url=url + "/v1", **more)


@contextlib.contextmanager
def proxy(*backends):
    """The program with these backends, such as "anthropic/good", in this order; gives clients."""
    config = f"max_wait: 0\nserver: {{api_key: {CLIENT_KEY}}}\nproviders:\n"
    for place, backend in enumerate(backends, 1):
        protocol, behaviour = backend.split("/")
        url = DEAD_URL if behaviour == "dead" else f"{PROVIDER_URL}/{behaviour}"
        url += "" if protocol == "anthropic" else "/v1"
        config += (
            f"  - priority: {place}\n    backends:\n      - provider: provider-{place}\n        name: {behaviour}-{place}\n"
            f"        api_key: {PROVIDER_KEY}\n        model: model-{place}\n        base_url: {url}\n"
            f"        protocol: {protocol}\n"
        )
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
            yield Clients(url[0])
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


def user(content="hi"):
    return {"role": "user", "content": content}


def message(clients, stream, messages=None, **more):
    """A message, whole or put together by the SDK's own helper."""
    arguments = {"model": "claude-sonnet-4-5", "max_tokens": 2000, "messages": messages or [user()], **more}
    if not stream:
        return clients.anthropic.messages.create(**arguments)
    with clients.anthropic.messages.stream(**arguments) as events:
        for _ in events:
            pass
        return events.get_final_message()


def text_of(answer):
    return "".join(block.text for block in answer.content if block.type == "text")


def response(clients, stream, **arguments):
    arguments = {"model": "aifree", **arguments}
    if not stream:
        return clients.openai.responses.create(**arguments)
    with clients.openai.responses.stream(**arguments) as events:
        for _ in events:
            pass
        return events.get_final_response()


def case_messages(good, stream):
    with proxy(good) as clients:
        answer = message(clients, stream, system="Be brief.")
        assert text_of(answer) == "You said hi." and answer.stop_reason == "end_turn", answer
        usage = answer.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (2, 1, 4), usage
        assert answer.provider_name == "good-1", answer


def case_messages_text_stream(good, stream):
    with proxy(good) as clients:
        arguments = {"model": "m", "max_tokens": 100, "messages": [user()]}
        if stream:
            with clients.anthropic.messages.stream(**arguments) as events:
                parts = list(events.text_stream)
        else:
            events = clients.anthropic.messages.create(**arguments, stream=True)
            parts = [e.delta.text for e in events if e.type == "content_block_delta"]
        assert "".join(parts) == "You said hi." and len(parts) > 1, parts


def case_messages_tools(good, stream):
    with proxy(good) as clients:
        tools = [{"name": "get_weather", "description": ABOUT, "input_schema": SCHEMA}]
        answer = message(clients, stream, tools=tools)
        call = answer.content[-1]
        assert (answer.stop_reason, call.name, call.input) == ("tool_use", "get_weather", {"city": "Oslo"}), answer
        assert text_of(answer) == "One moment."
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "3 C"}
        turns = [user(), {"role": "assistant", "content": answer.content}, user([result])]
        answer = message(clients, stream, turns, tools=tools)
        assert text_of(answer) == "It is 3 C in Oslo.", answer


def case_messages_images(good, stream):
    with proxy(good) as clients:
        source = {"type": "base64", "media_type": "image/png", "data": PNG}
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}]
        assert text_of(message(clients, stream, [user(parts)])) == "A picture."


def case_messages_thinking(good, stream):
    with proxy(good) as clients:
        thinking = {"type": "enabled", "budget_tokens": 1024}
        answer = message(clients, stream, [user("A puzzle!")], thinking=thinking)
        assert [block.type for block in answer.content] == ["thinking", "text"], answer
        assert answer.content[0].thinking == "Let me count." and text_of(answer) == "It is 42.", answer
        # The turn goes back as it came, signature and all.
        turns = [user("A puzzle!"), {"role": "assistant", "content": answer.content}, user("Another puzzle!")]
        assert text_of(message(clients, stream, turns, thinking=thinking)) == "It is 42."


def case_count_tokens(good, _):
    with proxy(good) as clients:
        count = clients.anthropic.messages.count_tokens(model="m", messages=[user("hi there")]).input_tokens
        assert count == 42 if good.startswith("anthropic") else 1 < count < 30, count


def case_models(good, _):
    with proxy(good) as clients:
        assert [m.id for m in clients.anthropic.models.list()] == ["aifree"]
        assert [m.id for m in clients.openai.models.list()] == ["aifree"]
        assert clients.anthropic.models.retrieve("aifree").type == "model"
        expect(anthropic.NotFoundError, lambda: clients.anthropic.models.retrieve("nope"))


def expect(kind, ask):
    try:
        answer = ask()
    except kind as e:
        assert type(e) is kind, repr(e)
        return e
    raise AssertionError(f"expected {kind.__name__}, got {answer}")


def case_messages_errors(good, stream):
    protocol = good.split("/")[0]
    with proxy(good) as clients:
        clients.anthropic = clients.anthropic.with_options(api_key="wrong")
        e = expect(anthropic.AuthenticationError, lambda: message(clients, stream))
        assert e.body["error"]["type"] == "authentication_error" and "API key" in e.message, e.body
    with proxy(protocol + "/strict") as clients:
        e = expect(anthropic.BadRequestError, lambda: message(clients, stream))
        assert e.body["error"]["type"] == "invalid_request_error" and "top_k" in e.message, e.body
    for failing in ("busy", "overloaded", "dead", "dying"):
        with proxy(f"{protocol}/{failing}") as clients:
            kind = getattr(anthropic, "OverloadedError", anthropic.InternalServerError)
            e = expect(kind, lambda clients=clients: message(clients, stream))
            assert e.status_code == 529 and e.body["error"]["type"] == "overloaded_error", e.body
            assert "All configured providers failed" in e.message and failing in e.message, e.message


def case_an_answer_that_breaks_off_raises(good, _):
    with proxy(good.replace("good", "cut")) as clients:
        e = expect(anthropic.APIStatusError, lambda: message(clients, True))
        assert "broke off" in str(e), e
        kinds = []
        stream = clients.openai.responses.create(model="aifree", input="hi", stream=True)
        kinds = [event.type for event in stream]
        assert kinds[-1] == "response.failed" and "response.output_text.delta" in kinds, kinds


def case_failures_are_invisible(good, stream):
    other = "openai" if good.startswith("anthropic") else "anthropic"
    for failing in ("busy", "overloaded", "dead", "dying", "silent", "strict"):
        with proxy(f"{other}/{failing}", good) as clients:
            answer = message(clients, stream)
            assert text_of(answer) == "You said hi." and answer.stop_reason == "end_turn", (failing, answer)
        with proxy(f"{other}/{failing}", good) as clients:
            assert response(clients, stream, input="hi").output_text == "You said hi.", failing


def case_responses(good, stream):
    with proxy(good) as clients:
        answer = response(clients, stream, input="hi", instructions="Be brief.")
        assert answer.output_text == "You said hi." and answer.status == "completed", answer
        usage = answer.usage
        assert (usage.input_tokens, usage.input_tokens_details.cached_tokens) == (3, 1), usage
        assert (usage.output_tokens, usage.total_tokens) == (4, 7), usage


def case_responses_tools(good, stream):
    with proxy(good) as clients:
        tool = {"type": "function", "name": "get_weather", "description": ABOUT, "parameters": SCHEMA, "strict": False}
        answer = response(clients, stream, input="hi", tools=[tool])
        call = next(item for item in answer.output if item.type == "function_call")
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"}), answer
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "3 C"}
        answer = response(clients, stream, input=[result], tools=[tool], previous_response_id=answer.id)
        assert answer.output_text == "It is 3 C in Oslo.", answer


def case_responses_images_and_reasoning(good, stream):
    with proxy(good) as clients:
        image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"}
        parts = [{"type": "input_text", "text": "What is it?"}, image]
        assert response(clients, stream, input=[user(parts)]).output_text == "A picture."
        answer = response(clients, stream, input="A puzzle!", reasoning={"effort": "low", "summary": "auto"})
        assert [item.type for item in answer.output] == ["reasoning", "message"], answer.output
        assert answer.output_text == "It is 42.", answer


def case_responses_conversation(good, stream):
    with proxy(good) as clients:
        first = response(clients, stream, input="hi")
        second = response(clients, stream, input="again", previous_response_id=first.id)
        assert second.output_text == "You said hi and hi and again.", second.output_text
        assert clients.openai.responses.retrieve(second.id).output_text == second.output_text
        clients.openai.responses.delete(second.id)
        expect(openai.NotFoundError, lambda: clients.openai.responses.retrieve(second.id))
        ask = {"input": "again", "previous_response_id": second.id}
        e = expect(openai.BadRequestError, lambda: response(clients, stream, **ask))
        assert e.code == "previous_response_not_found", e.body


def case_responses_errors(good, stream):
    protocol = good.split("/")[0]
    with proxy(protocol + "/strict") as clients:
        e = expect(openai.BadRequestError, lambda: response(clients, stream, input="hi"))
        assert "top_k" in e.message, e.message
    with proxy(protocol + "/overloaded") as clients:
        e = expect(openai.InternalServerError, lambda: response(clients, stream, input="hi"))
        assert e.status_code == 503 and e.code == "all_providers_failed", e.body


def case_structured_output(good, stream):
    with proxy(good) as clients:
        oslo = Weather(city="Oslo", degrees=3)
        if stream:
            with clients.openai.responses.stream(model="aifree", input="hi", text_format=Weather) as events:
                for _ in events:
                    pass
                answer = events.get_final_response()
        else:
            answer = clients.openai.responses.parse(model="aifree", input="hi", text_format=Weather)
        assert answer.output_parsed == oslo, answer
        completions = clients.openai.chat.completions
        answer = completions.parse(model="aifree", messages=[user()], response_format=Weather)
        assert answer.choices[0].message.parsed == oslo, answer


def main():
    failed = 0
    for name, case in list(globals().items()):
        if not name.startswith("case_"):
            continue
        began, told = time.monotonic(), []
        for protocol in ("openai", "anthropic"):
            for stream in (False, True):
                try:
                    case(protocol + "/good", stream)
                except Exception:
                    told.append(f"FAILED over {protocol}, stream {stream}\n{traceback.format_exc()}")
        failed += bool(told)
        print(f"{name.removeprefix('case_')}: {''.join(told) or 'ok'} ({time.monotonic() - began:.2f} s)", flush=True)
    print(f"anthropic {anthropic.__version__}, openai {openai.__version__}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Provider)
    PROVIDER_URL = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Bound and never listening: refuses, and nobody else can get the port.
    dead = socket.socket()
    dead.bind(("127.0.0.1", 0))
    DEAD_URL = f"http://127.0.0.1:{dead.getsockname()[1]}"
    sys.exit(main())
