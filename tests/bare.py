"""One static binary on a bare system: an empty root with nothing in it but the binary. No certificates, no libc, no
shell, no /dev, no /proc, no /etc.

Usage: python3 tests/bare.py BINARY [EMULATOR OPTIONS...]
       python3 tests/bare.py target/armv7-unknown-linux-musleabihf/release/ai-free-swap qemu-arm-static -cpu cortex-a7

The emulator must be static too; it is put beside the binary. Needs root or unprivileged user namespaces (`unshare`),
and `openssl` for the certificates. First the demo answers; then a provider behind TLS, with 1.3 and with 1.2 alone,
and one whose certificate nobody trusts, which must not hear a word. Exits non-zero at the first failure.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SECONDS = 60  # An emulator on a busy machine is slow; nothing here takes more than a second of its own.
KEY = "sk-provider-key"


def check(true, what):
    if not true:
        sys.exit(f"FAILED: {what}")


class Program:
    """The program in its root, from its start to its end."""

    def __init__(self, root, command, *options):
        # No path of ours, no variable of ours: what it needs it has, or finds out that it can do without.
        enter = [shutil.which("chroot", path=os.defpath + ":/sbin:/usr/sbin"), root]
        enter = enter if os.geteuid() == 0 else [shutil.which("unshare"), "-r", *enter]
        self.process = subprocess.Popen(
            [*enter, *command, "--host", "127.0.0.1", "--port", "0", *options],
            env={}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        began, self.log, self.port = time.monotonic(), [], None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        self.milliseconds = (time.monotonic() - began) * 1000
        check(self.port, "it does not listen:\n" + "".join(self.log))
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def ask(self, method, path, body=None):
        peer = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        peer.request(method, path, body and json.dumps(body), {"content-type": "application/json"})
        answer = peer.getresponse()
        return answer.status, answer.read().decode()

    def chat(self, model, **more):
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
        status, text = self.ask("POST", "/v1/chat/completions", body)
        return status, text

    def resident(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1])

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit("FAILED: it does not end after SIGTERM")
        check(status == 0, f"it ended with status {status}:\n" + "".join(self.log))


class Provider:
    """Answers chats over TLS of one version, and remembers which one was spoken and what it was asked."""

    def __init__(self, folder, version):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = version
        context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
        listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.heard = listener.getsockname()[1], []
        threading.Thread(target=self.serve, args=(listener, context), daemon=True).start()

    def serve(self, listener, context):
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=self.answer, args=(peer, context), daemon=True).start()

    def answer(self, peer, context):
        try:
            with context.wrap_socket(peer, server_side=True) as tls:
                while self.answer_one(tls):
                    pass
        except OSError:
            pass  # It was not trusted, or the program ended.

    def answer_one(self, tls):
        head = b""
        while b"\r\n\r\n" not in head:
            more = tls.recv(65536)
            if not more:
                return False
            head += more
        head, _, body = head.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
        while len(body) < length:
            body += tls.recv(65536)
        self.heard.append((tls.version(), f"bearer {KEY}" in head.decode().lower()))
        if json.loads(body).get("stream"):
            kind = "text/event-stream"
            piece = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            deltas = [({"role": "assistant", "content": "over "}, None), ({"content": "TLS"}, None), ({}, "stop")]
            parts = [{**piece, "choices": [{"index": 0, "delta": d, "finish_reason": f}]} for d, f in deltas]
            text = "".join(f"data: {json.dumps(part)}\n\n" for part in parts) + "data: [DONE]\n\n"
        else:
            kind = "application/json"
            said = {"role": "assistant", "content": "over TLS"}
            choice = {"index": 0, "message": said, "finish_reason": "stop"}
            text = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
        tls.sendall(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
        return True


def certify(folder):
    """A new CA, and a certificate of it for 127.0.0.1."""
    folder.mkdir()

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=provider",
            "-keyout", "leaf.key", "-out", "leaf.csr")
    (folder / "leaf.ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "1",
            "-days", "2", "-extfile", "leaf.ext", "-out", "leaf.pem")


def demo(root, command):
    program = Program(root, command)
    idle = program.resident()
    check(program.ask("GET", "/health") == (200, '{"status":"ok"}'), "/health does not say ok")
    status, text = program.chat("aifree")
    check(status == 200 and "built-in demo" in text, f"the demo says {status} {text}")
    status, text = program.chat("aifree", stream=True)
    check(status == 200 and text.endswith("data: [DONE]\n\n"), f"the demo streams {status} {text}")
    program.end()
    return program.milliseconds, idle


def over_tls(root, command, folder):
    certify(folder / "trusted")
    certify(folder / "stranger")
    providers = {
        "tls13": Provider(folder / "trusted", ssl.TLSVersion.TLSv1_3),
        "tls12": Provider(folder / "trusted", ssl.TLSVersion.TLSv1_2),
        "stranger": Provider(folder / "stranger", ssl.TLSVersion.TLSv1_3),
    }
    backends = [
        {"provider": "openai_compat", "base_url": f"https://127.0.0.1:{provider.port}/v1", "api_key": KEY,
         "model": model, "tls_ca": "/ca.pem"}
        for model, provider in providers.items()
    ]
    # JSON is YAML.
    config = {"model_routing": "match", "providers": [{"priority": 1, "backends": backends}]}
    Path(root, "config.yaml").write_text(json.dumps(config))
    shutil.copy(folder / "trusted" / "ca.pem", Path(root, "ca.pem"))

    program = Program(root, command, "--config", "/config.yaml")
    for model, version in (("tls13", "TLSv1.3"), ("tls12", "TLSv1.2")):
        status, text = program.chat(model)
        check(status == 200 and "over TLS" in text, f"{model}: {status} {text}\n" + "".join(program.log))
        status, text = program.chat(model, stream=True)
        check(status == 200 and '"over ' in text and text.endswith("data: [DONE]\n\n"), f"{model}: {status} {text}")
        heard = providers[model].heard
        check(heard == [(version, True)] * 2, f"{model} heard {heard}")
    status, text = program.chat("stranger")
    check(status == 503 and not providers["stranger"].heard, f"a stranger was asked: {status} {text}")
    resident = program.resident()
    program.end()
    return resident


def main():
    binary, emulator = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        root = folder / "root"
        root.mkdir()
        shutil.copy(binary, root / "ai-free-swap")
        command = ["/ai-free-swap"]
        if emulator:
            shutil.copy(shutil.which(emulator[0]), root / "emulator")
            command = ["/emulator", *emulator[1:], *command]
        milliseconds, idle = demo(str(root), command)
        resident = over_tls(str(root), command, folder)
    size = os.path.getsize(binary)
    print(f"{binary}: {size:,} bytes; in an empty root it answers, whole and streamed, over TLS 1.3 and 1.2, tells a"
          f" stranger nothing, and ends with status 0; listening after {milliseconds:.1f} ms, resident {idle:,} kB idle,"
          f" {resident:,} kB after TLS" + (f" (with {emulator[0]}'s own)" if emulator else ""))


main()
