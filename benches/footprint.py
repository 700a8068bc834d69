"""What a binary costs: its size, its time to listen, and its memory when idle, with open streams and after them.

Usage: python3 benches/footprint.py BINARY           size, start, memory
       python3 benches/footprint.py BINARY --cpu     instructions for each kind of request (needs valgrind)

Linux only. Provider and clients are in this process. Memory is VmRSS of the program, in kB; each line of the table is
taken with everything before it still in the heap, as in a program that has run for a while. Instructions say what a
change costs whatever else the machine does; they are no times.
"""

import asyncio
import atexit
import json
import os
import re
import resource
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

STARTS = 21
CHUNKS = 20
FEW = 5
CHUNK = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"tick "}}]}\n\n'
LAST = b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
YES = b'"yes"'
WHOLE = b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}]}'


class Provider:
    """Streams one chunk, and the rest when `over` is set."""

    def __init__(self):
        self.over = asyncio.Event()

    async def serve(self, context=None):
        server = await asyncio.start_server(self.answer_all, "127.0.0.1", 0, ssl=context, backlog=4096, limit=2**16)
        return server.sockets[0].getsockname()[1]

    async def answer_all(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                left = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
                body = b""
                while left:
                    piece = await reader.read(min(left, 2**16))
                    left -= len(piece)
                    body = body or piece
                if b'"stream":true' in body:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                    writer.write(b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK))
                    await writer.drain()
                    await self.over.wait()
                    for _ in range(CHUNKS if b"count" in body else 0):
                        writer.write(b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK))
                        await writer.drain()
                        await asyncio.sleep(0.002)
                    writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(LAST), LAST))
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                                 % (len(WHOLE), WHOLE))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.close()


def start(binary, *options):
    """The program, its port, and the milliseconds from exec until it listened."""
    process = subprocess.Popen([*binary, "--port", "0", "--host", "127.0.0.1", *options], env={"PATH": os.environ["PATH"]},
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")
    atexit.register(process.kill)
    began = time.perf_counter()
    for line in process.stderr:
        if found := re.search(r"listening on http://\S+:(\d+)", line):
            milliseconds = (time.perf_counter() - began) * 1000
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, int(found[1]), milliseconds
    sys.exit("it does not listen")


def end(process):
    process.send_signal(signal.SIGTERM)
    if process.wait(60) != 0:
        sys.exit(f"it ended with status {process.returncode}")


def memory(process, field="VmRSS"):
    return int(re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])


async def post(port, body, until, path="/v1/chat/completions", connection=None):
    """Sends one request and reads until `until` is there; gives the connection back."""
    reader, writer = connection or await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                 % (path.encode(), len(body)))
    writer.write(body)
    await asyncio.wait_for(reader.readuntil(until), 120)
    return reader, writer


def chat(text, stream):
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]}
    return json.dumps(body, separators=(",", ":")).encode()


async def streams(process, port, provider, count):
    """Memory with `count` open streams, and once they have ended and their connections are closed."""
    provider.over.clear()
    opened = []
    for at in range(0, count, 50):
        opened += await asyncio.gather(*(post(port, chat("hello " * 20, True), b"tick") for _ in range(min(50, count - at))))
    during = memory(process)
    provider.over.set()
    await asyncio.gather(*(reader.readuntil(b"[DONE]") for reader, _ in opened))
    for _, writer in opened:
        writer.close()
    await settle(process)
    return during, memory(process)


async def settle(process):
    """Waits until the program has slept for a while: nothing is left to do."""
    before = None
    while before != (now := Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]):
        before = now
        await asyncio.sleep(0.3)


async def bodies(process, port, count, size):
    """The peak with `count` bodies of `size` bytes at once, what stays, and how many were told to come later."""
    body = chat("x" * size, False)
    done = await asyncio.gather(*(post(port, body, YES) for _ in range(count)), return_exceptions=True)
    answered = [one for one in done if not isinstance(one, Exception)]
    for _, writer in answered:
        writer.close()
    await settle(process)
    return memory(process, "VmHWM"), memory(process), count - len(answered)


async def small(port, count):
    for _ in range(count):
        _, writer = await post(port, chat("hello", False), YES)
        writer.close()


def conversation(size):
    """An agent's: tools, then calls and results up to `size` bytes; in Anthropic's form and in OpenAI's."""
    schema = {"type": "object", "properties": {f"arg_{i}": {"type": "string", "description": "what it is " * 5} for i in range(5)}}
    text = "let the parser return \"early\" when\n the buffer holds no frame " * 10
    anthropic, openai = [{"role": "user", "content": text}], [{"role": "user", "content": text}]
    for at in range(max(0, (size - 10_000) // 900)):
        arguments = {"arg_0": f"src/file_{at}.rs", "arg_1": at}
        anthropic += [
            {"role": "assistant", "content": [{"type": "text", "text": "I look."},
                                              {"type": "tool_use", "id": f"t{at}", "name": "tool_1", "input": arguments}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{at}", "content": text}]},
        ]
        call = {"id": f"t{at}", "type": "function", "function": {"name": "tool_1", "arguments": json.dumps(arguments)}}
        openai += [{"role": "assistant", "content": "I look.", "tool_calls": [call]},
                   {"role": "tool", "tool_call_id": f"t{at}", "content": text}]
    tools = range(12)
    return (
        {"model": "m", "max_tokens": 99, "messages": anthropic,
         "tools": [{"name": f"tool_{i}", "description": text, "input_schema": schema} for i in tools]},
        {"model": "m", "messages": openai,
         "tools": [{"type": "function", "function": {"name": f"tool_{i}", "description": text, "parameters": schema}} for i in tools]},
    )


async def instructions(binary, folder, context, count, *request):
    """Of one request, in user space: a run with `count` of them on one connection, less a run with a few."""
    counted = []
    for times in (FEW, FEW + count):
        provider = Provider()
        provider.over.set()
        counter = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
                   f"--log-file={folder}/counted"]
        process, port = await with_backend([*counter, binary], folder, provider, context)
        connection = None
        for _ in range(times):
            connection = await post(port, *request, connection=connection)
        connection[1].close()
        end(process)
        told = (folder / "counted").read_text()
        counted.append(int(re.search(r"I +refs: +([0-9,]+)", told)[1].replace(",", "")))
    return (counted[1] - counted[0]) / count


async def measure_cpu(binary, folder):
    anthropic, openai = (json.dumps(body, separators=(",", ":")).encode() for body in conversation(200_000))
    anthropic_small = json.dumps({"max_tokens": 9, "messages": [{"role": "user", "content": "hello " * 20}]}).encode()
    openai_small = chat("hello " * 20, False)
    tls = certify(folder)
    for name, context, *rest in (
        ("small request", None, 300, openai_small, YES),
        ("small request, provider behind TLS", tls, 300, openai_small, YES),
        (f"stream of {CHUNKS + 2} chunks", None, 50, chat("count", True), b"[DONE]\n\n\r\n0\r\n\r\n"),
        ("request of 200 KB", None, 30, openai, YES),
        ("small Messages request", None, 300, anthropic_small, b"yes", "/v1/messages"),
        ("Messages request of 200 KB", None, 30, anthropic, b"yes", "/v1/messages"),
    ):
        print(f"| {name} | {await instructions(binary, folder, context, *rest):,.0f} |", flush=True)


async def with_backend(binary, folder, provider, context):
    """The program with one backend: its process and its port."""
    scheme = "https" if context else "http"
    backend = {"provider": "openai_compat", "model": "m", "api_key": "k", "tls_ca": f"{folder}/cert" if context else None,
               "base_url": f"{scheme}://127.0.0.1:{await provider.serve(context)}/v1"}
    config = folder / "config.yaml"
    config.write_text(json.dumps({"providers": [{"priority": 1, "backends": [backend]}]}))
    process, port, _ = start(binary, "--config", str(config))
    return process, port


def certify(folder):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "2", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-addext",
                    "basicConstraints=critical,CA:FALSE", "-keyout", folder / "key", "-out", folder / "cert"],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    return context


async def measure(binary, folder):
    print(f"| size of the binary | {os.path.getsize(binary):,} bytes |")
    times, idle = [], []
    for _ in range(STARTS):
        process, _, milliseconds = start([binary])
        times.append(milliseconds)
        idle.append(memory(process))
        end(process)
    print(f"| exec to listening, {STARTS} starts | {min(times):.1f} ms at best, {statistics.median(times):.1f} ms in the middle |")
    print(f"| idle after the start | {statistics.median(idle):,} kB |")

    for name, context in (("", None), (", provider behind TLS", certify(folder))):
        provider = Provider()
        process, port = await with_backend([binary], folder, provider, context)
        await small(port, 1)
        before = memory(process)
        print(f"| after one request{name} | {before:,} kB |")
        for count in (100, 1000, 1000):
            during, after = await streams(process, port, provider, count)
            each = (during - before) / count
            print(f"| {count} open streams{name} | {during:,} kB: {each:.1f} kB each; {after:,} kB after them |")
        if not context:
            for count in (1, 60, 60):
                peak, after, later = await bodies(process, port, count, 20 * 2**20)
                refused = f"; {later} told to come later" if later else ""
                print(f"| {count} bodies of 20 MiB at once | {peak:,} kB at most; {after:,} kB after them{refused} |")
            await small(port, 3000)
            print(f"| 3000 small requests later | {memory(process):,} kB |")
        end(process)


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        print("| what | measured |\n|---|---|")
        work = measure_cpu if "--cpu" in sys.argv else measure
        asyncio.run(work(os.path.abspath(sys.argv[1]), Path(folder)))


main()
