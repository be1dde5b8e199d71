#!/bin/bash
# inside.sh - runs in the booted root: the service from installation to stop.
good=0 bad=0
check() { # what command...
    local what=$1
    shift
    if "$@" >/tmp/check.out 2>&1; then
        good=$((good + 1))
    else
        bad=$((bad + 1))
        echo "FAILED: $what ($*)"
        sed 's/^/    /' /tmp/check.out
    fi
}
property() { systemctl show -P "$1" fathomd; }
is() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; return 1; }; }
answers() { # path status [text]
    local out
    out=$(curl -s -m 5 -w '\n%{http_code}' "http://127.0.0.1:8080$1") || return 1
    [ "${out##*$'\n'}" = "$2" ] && [[ $out == *"${3:-}"* ]] || { echo "$out"; return 1; }
}
until_true() { # seconds command...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { "$@"; return 1; }
        sleep 0.1
    done
}

check "the user is made" systemd-sysusers
check "the directories are made" systemd-tmpfiles --create
check "the unit is sound" systemd-analyze verify fathomd.service
systemctl daemon-reload
check "the service starts and says that it is ready" systemctl start fathomd
check "it is active" is "$(property ActiveState)" active
check "it says what it serves" is "$(property StatusText)" "serving fathom-demo"
check "it is healthy" answers /health 200 '"ok"'
check "it is ready" answers /ready 200 '"ready"'
check "it runs as its own user" is "$(ps -o user= -p "$(property MainPID)" 2>/dev/null || stat -c %U "/proc/$(property MainPID)")" fathom
check "it has no capability" grep -q '^CapEff:[[:space:]]*0000000000000000$' "/proc/$(property MainPID)/status"
check "it cannot gain privileges" grep -q '^NoNewPrivs:[[:space:]]*1$' "/proc/$(property MainPID)/status"
check "its system calls are filtered" grep -q '^Seccomp:[[:space:]]*2$' "/proc/$(property MainPID)/status"
check "it generates" bash -c "curl -s -m 60 http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \
    -d '{\"prompt\":\"The capital of France is\",\"max_tokens\":4,\"temperature\":0}' | grep -q '\"text\"'"

# A key comes with a reload; a file that does not read changes nothing.
echo "alice a-key-of-alice" >/etc/fathom/keys
systemd-tmpfiles --create
echo "auth.keys_file = /etc/fathom/keys" >>/etc/fathom/fathomd.conf
check "reload is accepted" systemctl reload fathomd
check "the key is asked for after the reload" until_true 5 answers /v1/models 401
echo "auth.keys_fil = x" >>/etc/fathom/fathomd.conf
check "a broken file is reported" bash -c "systemctl reload fathomd && sleep 0.5 && \
    journalctl -u fathomd -o cat | grep -q 'fathomd.conf:[0-9]*: there is no setting'"
check "and changes nothing" answers /v1/models 401
sed -i '$d' /etc/fathom/fathomd.conf
check "the key opens" bash -c "curl -sf -H 'Authorization: Bearer a-key-of-alice' http://127.0.0.1:8080/v1/models"
check "the key is not in the journal" bash -c "! journalctl -o cat | grep -q a-key-of-alice"

# The watchdog: a process that hangs is killed and started again.
mkdir -p /etc/systemd/system/fathomd.service.d
printf '[Service]\nWatchdogSec=3\nRestartSec=0\n' >/etc/systemd/system/fathomd.service.d/fast.conf
systemctl daemon-reload
check "it restarts" systemctl restart fathomd
pid=$(property MainPID)
sleep 5
check "a live process is left alone by the watchdog" is "$(property MainPID)" "$pid"
kill -STOP "$pid"
check "a hung process is ended by the watchdog" until_true 40 bash -c \
    "[ \"\$(systemctl show -P NRestarts fathomd)\" -ge 1 ]"
check "and served again" until_true 30 answers /ready 200

# A stop lets a running request finish.
(curl -s -m 60 http://127.0.0.1:8080/v1/completions -H 'Authorization: Bearer a-key-of-alice' \
    -H 'Content-Type: application/json' \
    -d '{"prompt":"Once","max_tokens":200,"temperature":0,"ignore_eos":true}' >/tmp/last.out) &
sleep 0.3
began=$SECONDS
check "it stops" systemctl stop fathomd
wait
check "in a few seconds" [ $((SECONDS - began)) -lt 30 ]
check "with success" is "$(property Result)" success
check "the running request was finished" grep -q '"finish_reason":"length"' /tmp/last.out
check "the port is free" bash -c "! curl -s -m 2 http://127.0.0.1:8080/livez"

# A model that is not there is a failure with a reason, not a hang.
sed -i 's/^model.path.*/model.path = \/nonexistent/' /usr/local/share/fathom/installed.conf
check "a missing model fails the start" bash -c "! systemctl start fathomd"
check "and the journal says why" bash -c "journalctl -u fathomd -o cat | grep -q /nonexistent"
systemctl stop fathomd

[ $bad -eq 0 ] || journalctl -u fathomd -o cat | tail -n 40
echo "$good passed, $bad failed"
[ $bad -eq 0 ]
