"""What a binary costs: its size, its time to listen, and its memory when idle, with open streams and after them.

Usage: python3 benches/footprint.py BINARY

Linux only. Provider and clients are in this process; all memory is VmRSS of the program, in kB. Each line of the table
is taken with everything before it still in the heap, as in a program that has run for a while.
"""

import asyncio
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
import time
from pathlib import Path

STARTS = 21
CHUNK = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"tick "}}]}\n\n'
LAST = b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
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
                    writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(LAST), LAST))
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                                 % (len(WHOLE), WHOLE))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.close()


def start(binary, *options):
    """The program, its port, and the milliseconds from exec until it listened."""
    process = subprocess.Popen([binary, "--port", "0", "--host", "127.0.0.1", *options], env={},
                               stderr=subprocess.PIPE, text=True, cwd="/")
    began = time.perf_counter()
    for line in process.stderr:
        if found := re.search(r"listening on http://\S+:(\d+)", line):
            return process, int(found[1]), (time.perf_counter() - began) * 1000
    sys.exit("it does not listen")


def end(process):
    process.send_signal(signal.SIGTERM)
    if process.wait(60) != 0:
        sys.exit(f"it ended with status {process.returncode}")


def memory(process, field="VmRSS"):
    return int(re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])


async def post(port, body, until):
    """Sends one chat and reads until `until` is there; gives the connection back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                 b"content-length: %d\r\n\r\n" % len(body))
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
    """The peak with `count` bodies of `size` bytes at once, and what stays."""
    body = chat("x" * size, False)
    done = await asyncio.gather(*(post(port, body, b'"yes"') for _ in range(count)))
    for _, writer in done:
        writer.close()
    await settle(process)
    return memory(process, "VmHWM"), memory(process)


async def small(port, count):
    for _ in range(count):
        _, writer = await post(port, chat("hello", False), b'"yes"')
        writer.close()


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
        process, _, milliseconds = start(binary)
        times.append(milliseconds)
        idle.append(memory(process))
        end(process)
    print(f"| exec to listening, {STARTS} starts | {min(times):.1f} ms at best, {statistics.median(times):.1f} ms in the middle |")
    print(f"| idle after the start | {statistics.median(idle):,} kB |")

    for name, context in (("", None), (", provider behind TLS", certify(folder))):
        provider = Provider()
        scheme = "https" if context else "http"
        backend = {"provider": "openai_compat", "model": "m", "api_key": "k", "tls_ca": f"{folder}/cert",
                   "base_url": f"{scheme}://127.0.0.1:{await provider.serve(context)}/v1"}
        config = folder / "config.yaml"
        config.write_text(json.dumps({"providers": [{"priority": 1, "backends": [backend]}]}))
        process, port, _ = start(binary, "--config", str(config))
        await small(port, 1)
        before = memory(process)
        print(f"| after one request{name} | {before:,} kB |")
        for count in (100, 1000, 1000):
            during, after = await streams(process, port, provider, count)
            each = (during - before) / count
            print(f"| {count} open streams{name} | {during:,} kB: {each:.1f} kB each; {after:,} kB after them |")
        if not context:
            for count in (1, 60, 60):
                peak, after = await bodies(process, port, count, 20 * 2**20)
                print(f"| {count} bodies of 20 MiB at once | {peak:,} kB at most; {after:,} kB after them |")
            await small(port, 3000)
            print(f"| 3000 small requests later | {memory(process):,} kB |")
        end(process)


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        print("| what | measured |\n|---|---|")
        asyncio.run(measure(os.path.abspath(sys.argv[1]), Path(folder)))


main()
