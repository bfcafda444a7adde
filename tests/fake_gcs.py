"""A server with the few requests of Cloud Storage that TensorStore makes: read, write, delete.

Writes and deletes heed ifGenerationMatch, as the real one does.
"""

import http.server
import json
import threading
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    objects: dict[str, tuple[int, bytes]] = {}  # name -> (generation, content)
    generations = 0
    guard = threading.Lock()

    def log_message(self, *args):
        pass

    def answer(self, status, body=b'', generation=None):
        self.send_response(status)
        if generation is not None:
            self.send_header('x-goog-generation', str(generation))
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def wanted(self):
        """(name of the object, whether the precondition holds); to be called with the guard."""
        url = urllib.parse.urlsplit(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        name = query.get('name') or urllib.parse.unquote(url.path.rsplit('/o/', 1)[-1])
        generation = self.objects.get(name, (0, b''))[0]
        return name, int(query.get('ifGenerationMatch', generation)) == generation

    def do_GET(self):
        with self.guard:
            found = self.objects.get(self.wanted()[0])
        self.answer(404) if found is None else self.answer(200, found[1], found[0])

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        with self.guard:
            name, holds = self.wanted()
            if holds:
                Handler.generations += 1
                self.objects[name] = self.generations, body
                body = json.dumps({'name': name, 'generation': str(self.generations)}).encode()
        self.answer(*((200, body) if holds else (412,)))

    def do_DELETE(self):
        with self.guard:
            name, holds = self.wanted()
            if holds:
                self.objects.pop(name, None)
        self.answer(204 if holds else 412)


def start() -> http.server.ThreadingHTTPServer:
    """Starts a server on a free port of this machine; its objects are in Handler.objects."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
