"""A server with those requests of Cloud Storage that TensorStore, TensorFlow and ArrayRecord make.

It has one bucket, 'bucket'. Objects are read (in ranges), listed, written and deleted; writes and
deletes heed ifGenerationMatch. It can be slow, answer 503, cut connections or refuse all, and it
counts its requests.

TensorStore and ArrayRecord take its address from variables (see `variables`). TensorFlow always
asks googleapis.com; it reaches this server as its proxy, with a certificate that `start` makes.
"""

import contextlib
import dataclasses
import datetime
import http.server
import json
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

CHUNK = 2**16  # bytes that are sent at once
NOW = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC).isoformat()


@dataclasses.dataclass
class Request:
    """One request: 'read', 'look' (at an object, a list or the bucket), 'write' or 'delete'."""

    kind: str
    name: str  # of the object; of a list its prefix
    sent: int = 0  # bytes of its answer's body that the client took, or that its socket buffered


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    objects: dict[str, tuple[int, bytes]] = {}  # name -> (generation, content)
    requests: list[Request] = []
    faults: list[str] = []  # of the next reads and writes: 'busy' (503), 'cut'
    rate = 0.0  # bytes a second of each read; 0: as fast as it goes
    refused = 0  # status of all answers, such as 403; 0: none
    generations = 0
    sessions: dict[str, tuple[str, bytes]] = {}  # of resumable uploads: name, content so far
    guard = threading.Lock()
    tls: ssl.SSLContext | None = None

    def log_message(self, *args):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client that has read enough
            super().handle()

    def do_CONNECT(self):
        """A client that takes this server for its proxy, whatever host it asks for."""
        self.send_response(200)
        self.end_headers()
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile('rb')
        self.wfile = self.connection.makefile('wb', buffering=0)
        self.close_connection = False

    def answer(self, status, body=b'', generation=None, request=None, **headers):
        self.send_response(status)
        if generation is not None:
            self.send_header('x-goog-generation', str(generation))
        for key, value in headers.items():
            self.send_header(key.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        for start in range(0, len(body), CHUNK):
            piece = body[start : start + CHUNK]
            # Counted before it is sent: a client that has everything may look at the count at once.
            if request is not None:
                request.sent += len(piece)
            try:
                self.wfile.write(piece)
            except OSError:  # the client has what it wants
                if request is not None:
                    request.sent -= len(piece)
                self.close_connection = True
                break
            if self.rate:
                time.sleep(CHUNK / self.rate)

    def answer_json(self, content):
        return self.answer(200, json.dumps(content).encode(), Content_Type='application/json')

    def body(self):
        """What the client sends; TensorFlow sends chunks, and a Content-Length beside them."""
        if self.headers.get('Transfer-Encoding') != 'chunked':
            return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(parts)

    def note(self, kind, name):
        """Keeps a request; to be called before its answer, after which a client may go on."""
        request = Request(kind, name)
        with self.guard:
            self.requests.append(request)
        return request

    def asked(self):
        """(bucket, name of an object or None, query)."""
        url = urllib.parse.urlsplit(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        path = url.path.split('/storage/v1/b/')[-1].lstrip('/')
        bucket, _, rest = path.partition('/')
        name = rest.removeprefix('o/') if '/storage/v1/b/' in url.path else rest
        if name == 'o':
            name = query.get('name')
        return bucket, urllib.parse.unquote(name) if name else None, query

    def fails(self, kind, name):
        """Answers with what the next request suffers from, and notes it; whether it did."""
        with self.guard:
            fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            self.note(kind, name)
        if fault == 'busy':
            self.answer(503)
        elif fault == 'cut':
            self.send_response(200)
            self.send_header('Content-Length', '1000000')
            self.end_headers()
            self.wfile.write(b'a part')
            self.close_connection = True
        return fault is not None

    def do_GET(self):
        bucket, name, query = self.asked()
        reads = name is not None and 'fields' not in query
        if reads and '/storage/v1/' in self.path and query.get('alt') != 'media':
            reads = False
        if self.refused or bucket != 'bucket':
            self.note('look', name or '')
            return self.answer(self.refused or 404)
        if name is None:
            return self.answer_list(query) if '/o' in self.path else self.answer_json({})
        with self.guard:
            found = self.objects.get(name)
        if reads and self.fails('read', name):
            return None
        if found is None:
            self.note('read' if reads else 'look', name)
            return self.answer(404)
        return self.answer_read(name, *found) if reads else self.answer_look(name, *found)

    def answer_look(self, name, generation, content):
        self.note('look', name)
        self.answer_json(described(name, generation, content))

    def answer_list(self, query):
        prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
        self.note('look', prefix)
        with self.guard:
            found = {n: o for n, o in self.objects.items() if n.startswith(prefix)}
        items, folders = [], set()
        for name, kept in sorted(found.items()):
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(described(name, *kept))
        items = items[: int(query.get('maxResults', len(items)))]
        self.answer_json({'items': items, 'prefixes': sorted(folders)})

    def answer_read(self, name, generation, content):
        first, last, status, more = 0, len(content) - 1, 200, {}
        if self.headers.get('Range'):
            low, _, high = self.headers['Range'].removeprefix('bytes=').partition('-')
            first = int(low) if low else max(len(content) - int(high), 0)
            last = min(int(high), last) if low and high else last
            if first > last:
                self.note('read', name)
                return self.answer(416, Content_Range=f'bytes */{len(content)}')
            status, more = 206, {'Content_Range': f'bytes {first}-{last}/{len(content)}'}
        body = content[first : last + 1]
        request = self.note('read', name)
        self.answer(status, body, generation, request, **more)

    def do_POST(self):
        body = self.body()
        bucket, name, query = self.asked()
        self.note('write', name)
        if self.refused or bucket != 'bucket':
            return self.answer(self.refused or 404)
        if query.get('uploadType') == 'resumable':
            with self.guard:
                session = str(len(self.sessions))
                self.sessions[session] = name, b''
            where = f'https://www.googleapis.com/upload/session/{session}'
            return self.answer(200, Location=where)
        with self.guard:
            generation = self.objects.get(name, (0, b''))[0]
            holds = int(query.get('ifGenerationMatch', generation)) == generation
            if holds:
                body = json.dumps(self.keep(name, body)).encode()
        self.answer(*((200, body) if holds else (412,)))

    def do_PUT(self):
        """A part of a resumable upload, or the question how much has arrived."""
        body = self.body()
        session = self.path.rsplit('/', 1)[-1]
        name, before = self.sessions[session]
        if self.fails('write', name):
            return None
        self.note('write', name)
        bounds, _, total = self.headers['Content-Range'].removeprefix('bytes ').partition('/')
        if bounds != '*':
            before = before[: int(bounds.split('-')[0])] + body
            self.sessions[session] = name, before
        if len(before) < int(total):
            more = {'Range': f'bytes=0-{len(before) - 1}'} if before else {}
            return self.answer(308, **more)
        with self.guard:
            kept = self.keep(name, before)
        self.answer_json(kept)

    def keep(self, name, content):
        """Stores an object, to be called with the guard; its description."""
        Handler.generations += 1
        self.objects[name] = self.generations, content
        return described(name, self.generations, content)

    def do_DELETE(self):
        _, name, query = self.asked()
        self.note('delete', name)
        with self.guard:
            generation = self.objects.get(name, (0, b''))[0]
            holds = int(query.get('ifGenerationMatch', generation)) == generation
            if holds:
                self.objects.pop(name, None)
        self.answer(204 if holds else 412)


def described(name, generation, content) -> dict[str, str]:
    """The metadata of an object."""
    return {
        'name': name,
        'size': str(len(content)),
        'generation': str(generation),
        'updated': NOW.replace('+00:00', '.000Z'),
    }


def reset() -> None:
    """Empties the bucket and forgets requests and faults."""
    for kept in (Handler.objects, Handler.requests, Handler.faults, Handler.sessions):
        kept.clear()
    Handler.rate, Handler.refused = 0.0, 0


def fill(folder: Path, prefix: str) -> None:
    """Puts the files of a folder into the bucket, as PREFIX/PATH."""
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            name = f'{prefix}/{path.relative_to(folder).as_posix()}'
            Handler.generations += 1
            Handler.objects[name] = Handler.generations, path.read_bytes()


def start() -> http.server.ThreadingHTTPServer:
    """Starts a server on a free port of this machine; its objects are in Handler.objects."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextlib.contextmanager
def serving():
    """A server for all three clients; yields the variables that a process needs to reach it."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f'{folder}/key.pem', f'{folder}/certificate.pem'
        command = ['openssl', 'req', '-x509', '-newkey', 'ec', '-nodes', '-days', '2']
        command += ['-pkeyopt', 'ec_paramgen_curve:prime256v1', '-subj', '/CN=stand-in']
        command += ['-addext', 'subjectAltName=DNS:*.googleapis.com']
        command += ['-keyout', key, '-out', certificate]
        subprocess.run(command, check=True, capture_output=True)
        Handler.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        Handler.tls.load_cert_chain(certificate, key)
        server = start()
        address = f'http://127.0.0.1:{server.server_port}'
        reset()
        yield {
            'TENSORSTORE_GCS_HTTP_URL': address,
            'CLOUD_STORAGE_EMULATOR_ENDPOINT': address,
            'https_proxy': address,
            'CURL_CA_BUNDLE': certificate,
            'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'a token',
            'NO_GCE_CHECK': 'true',
        }
        server.shutdown()
        server.server_close()
        reset()
