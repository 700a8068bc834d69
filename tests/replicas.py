#!/usr/bin/env python3
"""Two instances behind HAProxy or nginx, with the files of deploy/; one of them is killed again and again under load.

    tests/replicas.py BINARY haproxy|nginx TERM|KILL [ROUNDS]

Prints how many requests there were and what became of them. With TERM none may fail. With KILL, streams that have begun
must break, and few others may fail. Only addresses of this machine are used.
"""
import collections
import http.client
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

CLIENTS = 12
ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = """
server: {{host: 127.0.0.1, port: {port}}}
providers: [{{priority: 1, backends: [{{provider: demo, model: demo}}]}}]
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


class Instance:
    def __init__(self, binary, room, port):
        self.command, self.port = [binary, "--config", str(room / f"{port}.yaml"), "--log-level", "error"], port
        (room / f"{port}.yaml").write_text(CONFIG.format(port=port))
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command)
        wait_for(self.port)

    def end(self, how):
        self.process.send_signal(how)
        return self.process.wait(40)


def balancer(kind, room, ports, front):
    """The file of deploy/ with the ports of this run."""
    names = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}
    text = (ROOT / "deploy" / names[kind]).read_text()
    for old, new in {"127.0.0.1:8001": f"127.0.0.1:{ports[0]}", "127.0.0.1:8002": f"127.0.0.1:{ports[1]}"}.items():
        assert old in text
        text = text.replace(old, new)
    if kind == "haproxy":
        text = text.replace("bind :8000", f"bind 127.0.0.1:{front}").replace("option httplog", "option dontlognull")
        command = ["haproxy", "-q", "-db", "-f", str(room / "balancer")]
    else:
        text = text.replace("listen 8000", f"listen 127.0.0.1:{front}")
        text = f"daemon off; pid {room}/pid; error_log {room}/error.log; events {{}}\nhttp {{ access_log off;\n{text}\n}}"
        command = ["nginx", "-c", str(room / "balancer"), "-p", str(room)]
    (room / "balancer").write_text(text)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(front)
    return process


class Load:
    """Clients that ask without pause: every other one streams, and every third one uses new connections."""

    def __init__(self, port):
        self.port, self.ended = port, threading.Event()
        self.counts, self.lock = collections.Counter(), threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=(n,)) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def client(self, number):
        stream, fresh, connection = number % 2 == 0, number % 3 == 0, None
        body = json.dumps({"model": "aifree", "stream": stream, "messages": [{"role": "user", "content": "x" * 2000}]})
        while not self.ended.is_set():
            kind = "stream" if stream else "whole"
            try:
                if connection is None or fresh:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                outcome = self.outcome(connection, stream)
            except (OSError, http.client.HTTPException) as error:
                outcome = f"failed: {type(error).__name__}"
            if outcome != "good":
                connection = None
            with self.lock:
                self.counts[f"{kind} {outcome}"] += 1

    @staticmethod
    def outcome(connection, stream):
        answer = connection.getresponse()
        try:
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return "cut off"
        if answer.status != 200:
            return f"failed: {answer.status}"
        if stream:
            return "good" if text.endswith(b"data: [DONE]\n\n") else "cut off"
        return "good" if b"built-in demo" in text else "failed: another text"

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        return self.counts


def main():
    binary, kind, how = sys.argv[1:4]
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    with tempfile.TemporaryDirectory() as room:
        room = pathlib.Path(room)
        # nginx' workers run as another user.
        room.chmod(0o755)
        ports = [free_port(), free_port()]
        instances = [Instance(binary, room, port) for port in ports]
        front = free_port()
        proxy = balancer(kind, room, ports, front)
        load = Load(front)
        try:
            for number in range(rounds):
                time.sleep(1.5)
                victim = instances[number % 2]
                began = time.monotonic()
                status = victim.end(signal.Signals[f"SIG{how}"])
                print(f"instance {number % 2} ended with status {status} after {time.monotonic() - began:.2f} s")
                time.sleep(1.5)
                victim.start()
                # Until the balancer has seen it.
                time.sleep(3)
        finally:
            counts = load.end()
            proxy.terminate()
            proxy.wait()
            for instance in instances:
                instance.end(signal.SIGKILL)
    print(f"{kind}, SIG{how}, {rounds} times: {sum(counts.values())} requests: {dict(sorted(counts.items()))}")
    failed = sum(count for outcome, count in counts.items() if "failed" in outcome)
    cut = sum(count for outcome, count in counts.items() if "cut off" in outcome)
    if (failed or cut) if how == "TERM" else failed > rounds:
        sys.exit("requests failed")


main()
