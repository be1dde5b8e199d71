"""A fathomd of its own for each test file: started, waited for, asked, stopped.

Only the standard library.  The program is $O/fathomd (build/release by default), the model
conf/model; FATHOM_ variables of the caller are not passed on.
"""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.join(ROOT, os.environ.get("O", "build/release"), "fathomd")
MODEL = os.path.join(ROOT, "conf/model")
IS_SANITIZED = "address" in PROGRAM or "thread" in PROGRAM


class Server:
    """Settings are keyword arguments with '__' for '.': http__idle_timeout_s=1."""

    def __init__(self, arguments=(), wait=True, address="127.0.0.1:0", **settings):
        settings.setdefault("model__path", MODEL)
        command = [PROGRAM, "--set", "http.listen=" + address, *arguments]
        for name, value in settings.items():
            command += ["--set", "%s=%s" % (name.replace("__", "."), value)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FATHOM_")}
        environment.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99")
        self.lines = []
        self.changed = threading.Condition()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment,
                                        stdin=subprocess.DEVNULL, cwd=ROOT)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        line = self.wait_line(r"event=listening ")
        self.port = int(re.search(r":(\d+) ", line).group(1))
        if wait:
            self.wait_line(r"event=ready ", 120)

    def _read(self):
        for raw in self.process.stderr:
            with self.changed:
                self.lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.lines.append("")
            self.changed.notify_all()

    def wait_line(self, pattern, seconds=10, begin=0):
        """The first log line from index `begin` on that matches."""
        end = time.monotonic() + seconds
        with self.changed:
            while True:
                for line in self.lines[begin:]:
                    if re.search(pattern, line):
                        return line
                if not self.reader.is_alive() and self.process.poll() is not None:
                    raise AssertionError("fathomd ended with %s before /%s/:\n%s" % (
                        self.process.returncode, pattern, "\n".join(self.lines[-30:])))
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError("no /%s/ within %g s:\n%s" % (
                        pattern, seconds, "\n".join(self.lines[-30:])))
                self.changed.wait(min(left, 0.2))

    def connect(self, timeout=20):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        sock.settimeout(timeout)
        return sock

    def raw(self, data, timeout=20):
        """Send bytes, read to the end of the connection."""
        with self.connect(timeout) as sock:
            try:
                sock.sendall(data)
            except OSError:
                pass
            return read_all(sock)

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers with lower-case names, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
                headers = dict({"Content-Type": "application/json"}, **(headers or {}))
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return (answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def metric(self, name):
        """The value of the one line `name value` of /metrics; name may have labels."""
        text = self.request("GET", "/metrics")[2].decode()
        for line in text.split("\n"):
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError("no metric %s" % name)

    def kill(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def stop(self, seconds=30):
        """SIGTERM and the exit status."""
        if self.process.poll() is None:
            self.kill()
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("fathomd did not stop within %g s" % seconds) from None
        self.reader.join(5)
        return status

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        status = self.stop()
        if kind is None:
            assert status == 0, "exit status %s:\n%s" % (status, "\n".join(self.lines[-40:]))


def read_all(sock):
    data = b""
    while True:
        try:
            part = sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return data
        if not part:
            return data
        data += part


def read_until(sock, text):
    data = b""
    while text not in data:
        part = sock.recv(65536)
        assert part, "the connection ended after %r" % data[-300:]
        data += part
    return data


def error_of(body):
    """The error object of an answer, its shape checked."""
    whole = json.loads(body)
    assert list(whole) == ["error"], whole
    error = whole["error"]
    assert list(error) == ["message", "type", "param", "code"], error
    assert isinstance(error["message"], str) and isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    return error


def main(tests):
    """Run functions; the last line counts them."""
    wanted = sys.argv[1:]
    passed = failed = 0
    for test in tests:
        if wanted and test.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            test()
            passed += 1
            print("ok     %s (%.1f s)" % (test.__name__, time.monotonic() - began))
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print("FAILED %s" % test.__name__)
            traceback.print_exc(file=sys.stdout)
    print("%d passed, %d failed" % (passed, failed))
    sys.exit(1 if failed else 0)
