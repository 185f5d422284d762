"""One real server of the demo: says its name, and hands out a file.

The file goes out slowly (about 1 MB/s) as long as another file exists, so that a download lasts exactly
until the demo has done what it wants to do meanwhile.
"""

import argparse
import http.server
import os
import socket
import time

CHUNK = 64 * 1024


class Server(http.server.ThreadingHTTPServer):
    """Listens on IPv4 and, where the kernel has it, on IPv6."""

    def __init__(self, port, handler):
        if socket.has_dualstack_ipv6():
            self.address_family = socket.AF_INET6
        super().__init__(("", port), handler)

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/download":
            self.send_file()
        else:
            self.send_text(f"Hello! I'm {options.name}\n".encode())

    def send_text(self, text):
        self.start(len(text))
        self.wfile.write(text)

    def send_file(self):
        with open(options.file, "rb") as file:
            self.start(os.fstat(file.fileno()).st_size)
            while chunk := file.read(CHUNK):
                self.wfile.write(chunk)
                if os.path.exists(options.slow_while):
                    time.sleep(0.05)

    def start(self, length):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.send_header("X-Server", options.name)
        self.end_headers()

    def log_message(self, *args):
        pass


parser = argparse.ArgumentParser()
parser.add_argument("--name", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--file", required=True, help="what GET /download sends")
parser.add_argument("--slow-while", required=True, help="a file whose existence slows the download")
options = parser.parse_args()
Server(options.port, Handler).serve_forever()
