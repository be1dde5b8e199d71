#!/usr/bin/env python3
"""Transport rules of the API against the real program: methods, heads, bodies, errors, keys."""
import json
import os
import re
import socket
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import MODEL, Server, error_of, main, read_all, read_until

CHAT = "/v1/chat/completions"
ALL_ROUTES = ["/", "/health", "/v1/health", "/ping", "/ready", "/readyz", "/livez", "/live",
              "/version", "/metrics", "/v1/models", "/models", "/beta/models"]
shared = None


def server():
    global shared
    if shared is None:
        shared = Server(http__max_body_bytes="1M", cors__allow_origins="https://app.example")
    return shared


def head_of(data):
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return int(lines[0].split()[1]), fields, body


def every_answer_has_an_id():
    for method, path in [("GET", p) for p in ALL_ROUTES] + [
            ("GET", "/nope"), ("PUT", "/v1/models"), ("POST", CHAT), ("DELETE", "/health")]:
        status, headers, _ = server().request(method, path)
        assert headers.get("x-request-id"), (method, path, status)
        assert headers["server"] == "fathom"


def client_ids_are_echoed_when_sound():
    echoed = server().request("GET", "/", headers={"x-request-id": "a.B:1_-"})[1]
    assert echoed["x-request-id"] == "a.B:1_-"
    for bad in ["a b", "x" * 200, "a,b"]:
        headers = server().request("GET", "/", headers={"x-request-id": bad})[1]
        assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"])


def fixed_bodies():
    assert server().request("GET", "/")[2] == b'{"service":"fathom","version":"0.1.0"}\n'
    assert server().request("GET", "/version")[2] == b'{"version":"0.1.0"}\n'
    assert server().request("GET", "/livez")[2] == b'{"status":"ok"}\n'
    assert server().request("GET", "/ready")[2] == b'{"status":"ready"}\n'
    assert server().request("GET", "/health?x=1&beta=true")[2] == b'{"status":"ok"}\n'
    status, headers, body = server().request("GET", "/nope")
    assert status == 404 and headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    assert error_of(body)["code"] == "unknown_url"
    for path in ["/v1/embeddings", "/v1/audio/speech", "/v1/files/..%2f..%2fetc%2fpasswd",
                 "/v1/chat/completions/abc", "/%00", "/a%zz"]:
        status, _, body = server().request("GET", path)
        assert status == 404 and error_of(body)["code"] == "unknown_url", path


def methods():
    for path, allow in [("/v1/models", "GET, HEAD, OPTIONS"), (CHAT, "POST, OPTIONS"),
                        ("/tokenize", "POST, OPTIONS")]:
        for method in ["PUT", "PATCH", "DELETE", "BREW"]:
            status, headers, body = server().request(method, path)
            assert status == 405 and headers["allow"] == allow, (method, path, status)
            assert error_of(body)["code"] == "method_not_allowed"
    assert server().request("GET", CHAT)[0] == 405
    assert server().request("POST", "/v1/models")[0] == 405
    status, headers, body = server().request("OPTIONS", CHAT)
    assert status == 204 and headers["allow"] == "POST, OPTIONS" and body == b""


def head_is_get_without_a_body():
    for path in ["/", "/health", "/v1/models", "/metrics"]:
        data = server().raw(("HEAD %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path).encode())
        status, headers, body = head_of(data)
        assert status == 200 and body == b"" and int(headers["content-length"]) > 0, (path, data)


def keep_alive_and_pipelining():
    with server().connect() as sock:
        for i in range(3):
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in read_until(sock, b'"ok"}\n')
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nx-request-id: one\r\n\r\n"
                     b"GET /nope HTTP/1.1\r\nHost: x\r\nx-request-id: two\r\n\r\n"
                     b"GET / HTTP/1.1\r\nHost: x\r\nx-request-id: three\r\nConnection: close\r\n\r\n")
        data = read_all(sock)
        assert data.index(b"id: one") < data.index(b"id: two") < data.index(b"id: three")


def http_1_0_is_answered_and_closed():
    data = server().raw(b"GET /livez HTTP/1.0\r\n\r\n")
    status, headers, body = head_of(data)
    assert status == 200 and body == b'{"status":"ok"}\n'
    assert headers.get("connection", "close").lower() == "close"


def media_types():
    for kind in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"]:
        status, _, body = server().request("POST", CHAT, "{}", {"Content-Type": kind})
        error = error_of(body)
        assert status == 415 and error["code"] == "unsupported_media_type"
        assert "Send 'Content-Type: application/json'" in error["message"]
    for kind in ["application/json", "application/json; charset=utf-8", "application/vnd.x+json"]:
        status, _, body = server().request("POST", CHAT, "{}", {"Content-Type": kind})
        assert status == 400 and error_of(body)["code"] == "missing_required_parameter", body
    data = server().raw(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
                        % CHAT.encode())
    assert head_of(data)[0] == 400 and b"missing_required_parameter" in data
    status, _, body = server().request("POST", CHAT, "{}", {"Content-Encoding": "gzip"})
    assert status == 415 and error_of(body)["code"] == "unsupported_content_encoding"


def json_rules():
    for body, code in [(b"", "invalid_json"), (b"{", "invalid_json"), (b"{} x", "invalid_json"),
                       (b"[]", "invalid_type"), (b'"x"', "invalid_type"),
                       (b'{"a":"\xff"}', "invalid_utf8"), (b'{"a":"\xc0\x80"}', "invalid_utf8"),
                       (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"), (b'{"a":"\\ud800"}', "invalid_json"),
                       (b'{"a":"x\\u0000y"}', "invalid_value"), (b'{"a":1,"a":2}', "invalid_value"),
                       (b'{"a":' + b"[" * 129 + b"]" * 129 + b"}", "json_too_deep"),
                       (b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}", "json_too_deep"),
                       (b"{}", "missing_required_parameter"),
                       (b"\xef\xbb\xbf{}", "missing_required_parameter")]:
        status, _, answer = server().request("POST", CHAT, body, {"Content-Type": "application/json"})
        error = error_of(answer)
        assert status == 400 and error["code"] == code, (body[:40], error)


def chunked_bodies_and_continue():
    with server().connect() as sock:
        sock.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     b"1\r\n{\r\n1;ext=1\r\n}\r\n0\r\n\r\n" % CHAT.encode())
        assert b"missing_required_parameter" in read_until(sock, b"}}\n")
        sock.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
                     % CHAT.encode())
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"{}")
        assert b"missing_required_parameter" in read_until(sock, b"}}\n")


def bodies_over_the_limit():
    begin = b"POST %s HTTP/1.1\r\nHost: x\r\n" % CHAT.encode()
    for header in [b"Content-Length: 1048577\r\n\r\n", b"Expect: 100-continue\r\nContent-Length: 9999999999\r\n\r\n"]:
        data = server().raw(begin + header)
        status, headers, body = head_of(data)
        assert status == 413 and error_of(body)["code"] == "request_too_large", data
        assert headers["connection"].lower() == "close" and headers["x-request-id"]
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    data = server().raw(begin + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17 + b"0\r\n\r\n")
    assert head_of(data)[0] == 413, data[:200]
    data = server().raw(begin + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 64)
    assert head_of(data)[0] == 413, data[:200]


def broken_http_is_refused_and_closed():
    for data in [b"\r\n\r\nX\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
                 b"GET / HTTP/1.1\r\n\r\n",  # no Host
                 b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 1x\r\n\r\n{}",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{}",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
                 b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
                 b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
                 b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70000 + b"\r\n\r\n",
                 b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 700000 + b"\r\n\r\n"]:
        with server().connect() as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            answer = read_all(sock)
        if answer:
            status = head_of(answer)[0]
            assert 400 <= status < 500 or status == 501 or status == 505, (data[:80], answer[:200])
    long_path = server().raw(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head_of(long_path)[0] == 414 and error_of(head_of(long_path)[2])["code"] == "uri_too_long"
    long_head = server().raw(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 66000 + b"\r\n\r\n")
    assert head_of(long_head)[0] == 431


def cross_origin():
    status, headers, _ = server().request("OPTIONS", CHAT, headers={
        "Origin": "https://app.example", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type"})
    assert status == 204 and headers["access-control-allow-origin"] == "https://app.example"
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    headers = server().request("GET", "/nope", headers={"Origin": "https://app.example"})[1]
    assert "x-request-id" in headers["access-control-expose-headers"]
    headers = server().request("GET", "/nope", headers={"Origin": "https://evil.example"})[1]
    assert not [name for name in headers if name.startswith("access-control")]


def metrics_parse_and_grow():
    """Every line against the grammar of the text format; counters do not fall."""
    line = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]\w*="(\\.|[^"\\\n])*",?)*\})? '
                      r'(NaN|[+-]Inf|-?\d+(\.\d+)?([eE][+-]?\d+)?)')

    def read():
        status, headers, body = server().request("GET", "/metrics")
        assert status == 200
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        values, types, buckets = {}, {}, {}
        for text in body.decode().rstrip("\n").split("\n"):
            if text.startswith("# TYPE "):
                name, kind = text[7:].split()
                assert name not in types, "two heads for " + name
                types[name] = kind
            elif not text.startswith("# HELP "):
                assert line.fullmatch(text), text
                name, value = text.rsplit(" ", 1)
                assert name not in values, "twice: " + name
                values[name] = float(value)
                base = re.sub(r"\{.*", "", name)
                assert re.sub("_(bucket|sum|count)$", "", base) in types or base in types, name
                if base.endswith("_bucket"):
                    buckets.setdefault(re.sub(r',?le="[^"]*"', "", name), []).append(float(value))
        for name, counts in buckets.items():
            assert counts == sorted(counts), name
            assert counts[-1] == values[re.sub(r"_bucket(\{\})?", "_count", name, 1)], name
        return values, types

    first, types = read()
    server().request("GET", "/nope")
    second, _ = read()
    for name, value in first.items():
        base = re.sub(r"\{.*", "", name)
        if types.get(base) == "counter" and not base.startswith("process"):
            assert second[name] >= value, name
    label = 'fathom_http_requests_total{route="none",method="GET",code="404"}'
    assert second[label] == first[label] + 1
    for name in ["fathom:num_requests_running", "fathom:num_requests_waiting",
                 "fathom:kv_cache_usage_perc", "fathom:request_success_total", "fathom_ready",
                 "fathom:time_to_first_token_seconds_count", "process_open_fds"]:
        assert any(key.startswith(name) for key in second), name


def keys_open_and_stay_secret():
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write("# team\nalice sk-sentinel-alice inference,metrics\nbob sk-sentinel-bob\n")
        keys.flush()
        with Server(auth__keys_file=keys.name, auth__failures_per_minute=8,
                    metrics__require_auth="true") as own:
            for path in ["/", "/health", "/ready", "/livez", "/version", "/ping"]:
                assert own.request("GET", path)[0] == 200, path
            status, headers, body = own.request("GET", "/v1/models")
            assert status == 401 and headers["www-authenticate"] == "Bearer"
            assert error_of(body)["code"] == "missing_api_key"
            for header in [{"Authorization": "Bearer sk-sentinel-alice"},
                           {"Authorization": "bearer sk-sentinel-bob"},
                           {"x-api-key": "sk-sentinel-bob"}, {"api-key": "sk-sentinel-bob"}]:
                assert own.request("GET", "/v1/models", headers=header)[0] == 200, header
            begin = time.monotonic()
            status, _, body = own.request("GET", "/v1/models", headers={"x-api-key": "sk-wrong"})
            assert status == 401 and error_of(body)["code"] == "invalid_api_key"
            assert time.monotonic() - begin >= 0.05
            assert own.request("GET", "/metrics", headers={"x-api-key": "sk-sentinel-bob"})[0] == 403
            assert own.request("GET", "/metrics", headers={"x-api-key": "sk-sentinel-alice"})[0] == 200
            # The body of a request without a key is not read.
            data = own.raw(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" % CHAT.encode())
            assert head_of(data)[0] == 401
            statuses = [own.request("GET", "/v1/models", headers={"x-api-key": "sk-no"})[0]
                        for _ in range(20)]  # the count may start anew with a minute among them
            assert 429 in statuses and set(statuses) <= {401, 429}, statuses
            assert own.request("GET", "/health")[0] == 200
        assert "sentinel" not in "\n".join(own.lines), "a key is in the log"


def open_addresses_need_keys():
    try:
        Server(address="0.0.0.0:0", wait=False)
        raise RuntimeError("it started")
    except AssertionError as error:
        assert "auth.allow_anonymous" in str(error), error
    with Server(address="0.0.0.0:0", auth__allow_anonymous="true") as own:
        assert own.request("GET", "/health")[0] == 200


def slow_heads_and_bodies_are_ended():
    with Server(http__header_timeout_s=0.5, http__body_timeout_s=0.5, http__idle_timeout_s=0.6) as own:
        sock = own.connect()
        begin = time.monotonic()
        data = b""
        for byte in b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1000:
            try:
                sock.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.02)
            if time.monotonic() - begin > 5:
                break
        assert time.monotonic() - begin < 4
        data = read_all(sock)
        assert b"408" in data.split(b"\r\n")[0] if data else True
        data = own.raw(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{" % CHAT.encode())
        assert head_of(data)[0] == 408 and b"request_timeout" in data
        with own.connect() as idle:
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_all(idle).endswith(b'"ok"}\n')


def many_idle_connections_do_not_block():
    with Server(http__max_connections=600) as own:
        idle = [own.connect() for _ in range(500)]
        begin = time.monotonic()
        for _ in range(20):
            assert own.request("GET", "/health")[0] == 200
        assert time.monotonic() - begin < 2
        for sock in idle:
            sock.close()
        end = time.monotonic() + 5
        while own.metric("fathom_http_connections") > 5 and time.monotonic() < end:
            time.sleep(0.1)
        assert own.metric("fathom_http_connections") <= 5


def stop_shared_server():
    assert server().stop() == 0, "\n".join(server().lines[-30:])


if __name__ == "__main__":
    main([every_answer_has_an_id, client_ids_are_echoed_when_sound, fixed_bodies, methods,
          head_is_get_without_a_body, keep_alive_and_pipelining, http_1_0_is_answered_and_closed,
          media_types, json_rules, chunked_bodies_and_continue, bodies_over_the_limit,
          broken_http_is_refused_and_closed, cross_origin, metrics_parse_and_grow,
          keys_open_and_stay_secret, open_addresses_need_keys, slow_heads_and_bodies_are_ended,
          many_idle_connections_do_not_block, stop_shared_server])
