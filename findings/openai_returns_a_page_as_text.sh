#!/usr/bin/env bash
# openai 3.57.0: a page that a server sends with status 200 is returned as a str, not raised.
#
# Guess before looking: chat.completions.create, which is annotated as returning a ChatCompletion,
# raises openai.APIError (its APIResponseValidationError) where a server, such as one whose address
# lacks "/v1", answers with status 200 and an HTML page.
# Seen: it returns the page's text as a str; code that goes on with .choices ends in AttributeError.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openai==3.57.0
"$folder/venv/bin/python" - <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

assert openai.__version__ == "3.57.0", openai.__version__
PAGE = b"<html><body>Welcome</body></html>"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(
    base_url=f"http://127.0.0.1:{server.server_address[1]}", api_key="any", max_retries=0
)
reply = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
print(f"status 200 with a page gives a {type(reply).__name__}: {reply!r}")
assert reply == PAGE.decode()
PYTHON
