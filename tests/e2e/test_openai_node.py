#!/usr/bin/env python3
"""The official openai client for Node, run by openai_node.mjs."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clients import node_client

place = node_client()
from server import Server

with Server() as server:
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "openai_node.mjs")
    url = "http://127.0.0.1:%d/v1" % server.port
    status = subprocess.run(["node", script, url, place], check=False).returncode
sys.exit(status)
