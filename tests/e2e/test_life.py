#!/usr/bin/env python3
"""The life of the process and of requests: loading, disconnects, slow readers, drain, reload."""
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import IS_SANITIZED, MODEL, Server, error_of, main, read_all, read_until

CHAT = "/v1/chat/completions"
SLOW = 4 if IS_SANITIZED else 1  # times everything that waits


def long_chat(**more):
    body = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 7000, "temperature": 0,
            "ignore_eos": True}
    return dict(body, **more)


def post_bytes(path, body, close=True):
    data = json.dumps(body).encode()
    return (b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n"
            % (path.encode(), b"Connection: close\r\n" if close else b"", len(data))) + data


def eventually(what, check, seconds=10):
    end = time.monotonic() + seconds * SLOW
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.05)
    assert check(), what


def running(server):
    return server.metric('fathom:num_requests_running{model_name="model",engine="0"}')


def aborted(server):
    return server.metric('fathom:request_success_total{model_name="model",engine="0",finished_reason="abort"}')


def probes_answer_before_and_after_loading():
    server = Server(wait=False)
    status, _, body = server.request("GET", "/livez")
    assert status == 200
    status, headers, body = server.request("GET", "/ready")
    if status == 503:
        assert json.loads(body)["status"] == "loading" and int(headers["retry-after"]) >= 1
        status, _, body = server.request("POST", CHAT, long_chat())
        assert status in (200, 503)
        if status == 503:
            assert error_of(body)["code"] == "model_loading"
    server.wait_line("event=ready ", 60)
    assert server.request("GET", "/ready")[0] == 200
    assert server.stop() == 0


def a_model_that_cannot_be_loaded_ends_the_process():
    for path, said in [("/nonexistent", "/nonexistent"), (None, "tokenizer|safetensors|tensor")]:
        with tempfile.TemporaryDirectory() as directory:
            if path is None:
                path = directory
                with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as source:
                    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as copy:
                        copy.write(source.read())
            try:
                Server(model__path=path)
                raise RuntimeError("it started")
            except AssertionError as error:
                assert "level=error event=start" in str(error), error


def disconnects_cancel_at_every_stage():
    with Server(sched__max_sequences=1, sched__chunk_tokens=16, sched__step_tokens=16) as server:
        before = aborted(server)
        count = 0
        prompt = "word " * 6000
        for stream in [True, False]:
            for delay in [0, 0.02, 0.3]:
                for body in [long_chat(stream=stream),
                             long_chat(stream=stream, max_tokens=5, messages=[
                                 {"role": "user", "content": prompt}])]:
                    sock = server.connect()
                    sock.sendall(post_bytes(CHAT, body))
                    time.sleep(delay)
                    sock.close()
                    count += 1
        eventually("everything is released", lambda: running(server) == 0
                   and server.metric('fathom:num_requests_waiting{model_name="model",engine="0"}') == 0
                   and server.metric('fathom_http_connections') <= 1)
        assert aborted(server) > before
        # While one runs, one waits; the waiting one goes away first.
        first, second = server.connect(), server.connect()
        first.sendall(post_bytes(CHAT, long_chat(stream=True)))
        read_until(first, b"data: ")
        second.sendall(post_bytes(CHAT, long_chat(stream=True)))
        eventually("one waits", lambda: server.metric(
            'fathom:num_requests_waiting{model_name="model",engine="0"}') == 1)
        second.close()
        eventually("none waits", lambda: server.metric(
            'fathom:num_requests_waiting{model_name="model",engine="0"}') == 0)
        assert running(server) == 1
        first.close()
        eventually("none runs", lambda: running(server) == 0)
        pages = server.metric('fathom_kv_pages{pool="growing",state="used"}')
        assert pages <= 1, pages


def cancel_takes_effect_within_a_second():
    with Server() as server:
        sock = server.connect()
        sock.sendall(post_bytes(CHAT, long_chat(stream=True)))
        read_until(sock, b"data: ")
        begin = time.monotonic()
        sock.close()
        eventually("it is released", lambda: running(server) == 0)
        assert time.monotonic() - begin < 1.5 * SLOW


def half_closed_clients_are_gone_unless_tolerated():
    body = long_chat(max_tokens=200)
    with Server() as server:
        with server.connect() as sock:
            sock.sendall(post_bytes(CHAT, body))
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b""
    with Server(http__half_close="tolerate") as server:
        with server.connect() as sock:
            sock.sendall(post_bytes(CHAT, body))
            sock.shutdown(socket.SHUT_WR)
            assert b'"finish_reason":"length"' in read_all(sock)


def a_slow_reader_is_cut_off_and_harms_nobody():
    with Server(http__write_stall_s=1.5 * SLOW, http__max_out_buffer=4096,
                sched__stream_bytes=16384) as server:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        # Log probabilities make each token's chunk large, so that buffers fill soon.
        slow.sendall(post_bytes(CHAT, long_chat(stream=True, logprobs=True, top_logprobs=20)))
        status, _, body = server.request("POST", CHAT, long_chat(max_tokens=20))
        assert status == 200 and json.loads(body)["usage"]["completion_tokens"] == 20
        eventually("the slow one is cut off",
                   lambda: running(server) == 0 and aborted(server) >= 1, 30)
        slow.close()


def streams_are_kept_alive_in_the_queue():
    with Server(sched__max_sequences=1, http__keepalive_interval_s=0.3) as server:
        first, second = server.connect(), server.connect()
        first.sendall(post_bytes(CHAT, long_chat(stream=True)))
        read_until(first, b"data: ")
        second.sendall(post_bytes(CHAT, long_chat(stream=True, max_tokens=3)))
        data = read_until(second, b": keep-alive\n\n")
        assert data.startswith(b"HTTP/1.1 200 OK") and b"data: " not in data
        first.close()
        data = read_all(second)
        assert data.rstrip().endswith(b"data: [DONE]\n\n\r\n0") and b'"finish_reason":"length"' in data
        second.close()


def a_full_queue_is_503_at_once():
    with Server(sched__max_sequences=1, limits__max_queued=1) as server:
        socks = []
        for _ in range(2):
            socks.append(server.connect())
            socks[-1].sendall(post_bytes(CHAT, long_chat(stream=True)))
            time.sleep(0.3 * SLOW)
        begin = time.monotonic()
        status, headers, body = server.request("POST", CHAT, long_chat())
        took = time.monotonic() - begin
        assert status == 503 and error_of(body)["code"] == "server_overloaded", body
        assert 1 <= int(headers["retry-after"]) <= 120 and int(headers["retry-after-ms"]) > 0
        assert took < 0.5 * SLOW, took
        status, _, body = server.request("GET", "/ready")
        assert status == 503 and json.loads(body) == {"status": "overloaded"}
        assert server.request("GET", "/health")[0] == 200
        for sock in socks:
            sock.close()


def term_finishes_what_runs():
    server = Server()
    sock, late = server.connect(), server.connect()
    sock.sendall(post_bytes(CHAT, long_chat(stream=True, max_tokens=1500)))
    read_until(sock, b"data: ")
    late.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    read_until(late, b"ok")
    server.kill()
    server.wait_line("event=draining ")
    try:
        status, headers, body = server.request("GET", "/ready")
        assert status == 503 and json.loads(body)["status"] == "draining", body
        status, headers, body = server.request("POST", CHAT, long_chat())
        assert status == 503 and error_of(body)["code"] == "draining"
        assert headers["connection"].lower() == "close"
    except ConnectionError:
        pass  # the stream has ended meanwhile, and so has the process
    data = read_all(sock)
    assert b'"finish_reason":"length"' in data and b"data: [DONE]\n\n" in data
    assert server.process.wait(10 * SLOW) == 0
    assert "event=stopped status=0" in "\n".join(server.lines[-3:])
    late.close()


def second_term_ends_now():
    server = Server()
    stream, plain = server.connect(), server.connect()
    stream.sendall(post_bytes(CHAT, long_chat(stream=True)))
    read_until(stream, b"data: ")
    plain.sendall(post_bytes(CHAT, long_chat()))
    time.sleep(0.2 * SLOW)
    server.kill()
    server.wait_line("event=draining ")
    begin = time.monotonic()
    server.kill(signal.SIGINT)
    data = read_all(stream)
    assert b'"code":"draining"' in data and data.rstrip().endswith(b"data: [DONE]\n\n\r\n0"), data[-300:]
    assert b"HTTP/1.1 503" in read_all(plain)
    assert server.process.wait(10 * SLOW) == 0
    assert time.monotonic() - begin < 5 * SLOW


def drain_has_a_limit():
    server = Server(limits__drain_timeout_s=0.5)
    sock = server.connect()
    sock.sendall(post_bytes(CHAT, long_chat(stream=True)))
    read_until(sock, b"data: ")
    server.kill()
    assert b'"code":"draining"' in read_all(sock)
    assert server.process.wait(10 * SLOW) == 0


def hup_reads_settings_and_keys_again():
    with tempfile.TemporaryDirectory() as directory:
        conf, keys = os.path.join(directory, "f.conf"), os.path.join(directory, "keys")

        def write(path, text):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

        write(conf, "# none\n")
        with Server(arguments=["--config", conf]) as server:
            sock = server.connect()
            sock.sendall(post_bytes(CHAT, long_chat(stream=True, max_tokens=800)))
            read_until(sock, b"data: ")
            write(keys, "alice a-key-for-alice\n")
            write(conf, "auth.keys_file = %s\nhttp.max_body_bytes = 2000\nhttp.prep_threads = 7\n" % keys)
            server.kill(signal.SIGHUP)
            server.wait_line("event=reload keys=1")
            server.wait_line("event=reload setting=http.prep_threads continuing with the old value")
            alice = {"Authorization": "Bearer a-key-for-alice"}
            assert server.request("GET", "/v1/models")[0] == 401
            assert server.request("GET", "/v1/models", headers=alice)[0] == 200
            assert server.request("POST", CHAT, "x" * 2001, alice)[0] == 413
            write(keys, "bob a-key-for-bob\n")
            server.kill(signal.SIGHUP)
            eventually("alice is out", lambda: server.request("GET", "/v1/models", headers=alice)[0] == 401)
            for text in ["auth.keys_file = %s\nno.such = 1\n" % keys, "auth.keys_file = /nonexistent\n"]:
                mark = len(server.lines)
                write(conf, text)
                server.kill(signal.SIGHUP)
                server.wait_line("level=error event=reload continuing with the settings", begin=mark)
                assert server.request("GET", "/v1/models")[0] == 401
                assert server.request("GET", "/v1/models",
                                      headers={"x-api-key": "a-key-for-bob"})[0] == 200
            assert b"data: [DONE]" in read_all(sock)  # it went on through all of that
            sock.close()


def health_is_quick_under_load():
    with Server(sched__max_sequences=8) as server:
        socks = []
        for _ in range(12):
            socks.append(server.connect())
            socks[-1].sendall(post_bytes(CHAT, long_chat(stream=True)))
        time.sleep(0.3)
        times = []
        for _ in range(50):
            begin = time.monotonic()
            assert server.request("GET", "/health")[0] == 200
            times.append(time.monotonic() - begin)
        times.sort()
        assert times[len(times) // 2] < 0.05 * SLOW, times
        for sock in socks:
            sock.close()


def clients_that_come_and_go_leave_nothing():
    with Server() as server:
        server.request("POST", CHAT, long_chat(max_tokens=1))
        fds = server.metric("process_open_fds")

        def client(seed):
            for i in range(60):
                try:
                    with server.connect(timeout=0.2) as sock:
                        data = post_bytes(CHAT, long_chat(stream=(i + seed) % 2 == 0, max_tokens=30))
                        sock.sendall(data[:len(data) * ((i * 7 + seed) % 11) // 10])
                        if (i + seed) % 3 == 0:
                            time.sleep(0.01)
                        if (i + seed) % 5 == 0:
                            sock.recv(100)
                except OSError:
                    pass

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually("connections are gone", lambda: server.metric("fathom_http_connections") <= 1)
        eventually("requests are gone", lambda: running(server) == 0)
        assert server.metric("process_open_fds") <= fds + 1
        assert server.request("POST", CHAT, long_chat(max_tokens=2))[0] == 200


def prompts_are_not_in_the_log():
    with Server(log__level="debug") as server:
        server.request("POST", CHAT, {"messages": [{"role": "user", "content": "SENTINEL-PROMPT"}],
                                      "max_tokens": 3})
        server.request("POST", CHAT, {"messages": [{"role": "SENTINEL-ROLE", "content": "x"}]})
    assert "SENTINEL" not in "\n".join(server.lines)


if __name__ == "__main__":
    main([probes_answer_before_and_after_loading, a_model_that_cannot_be_loaded_ends_the_process,
          disconnects_cancel_at_every_stage, cancel_takes_effect_within_a_second,
          half_closed_clients_are_gone_unless_tolerated, a_slow_reader_is_cut_off_and_harms_nobody,
          streams_are_kept_alive_in_the_queue, a_full_queue_is_503_at_once, term_finishes_what_runs,
          second_term_ends_now, drain_has_a_limit, hup_reads_settings_and_keys_again,
          health_is_quick_under_load, clients_that_come_and_go_leave_nothing,
          prompts_are_not_in_the_log])
