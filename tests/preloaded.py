"""Python that has imported the large libraries already, for tests that start programs.

  subprocess.run([*preloaded.python(), 'main.py', '--workdir=...'])

Importing TensorFlow, JAX and Orbax takes a process ten seconds or more. A server imports them once
for each test worker. What `python()` names is a small client: it hands its arguments, environment,
folder and open files to the server, which forks a child that runs the program with them. The client
passes signals on and ends as the child does; a client that is killed takes its child with it. The
project's own modules are imported by the child. Tests of start-up, of what libraries print and of
signals while importing start `sys.executable` itself.
"""

import array
import atexit
import functools
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time

LIBRARIES = ('jax', 'flax', 'optax', 'orbax.checkpoint', 'tensorflow', 'PIL.Image')
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
LIMIT = 1 << 20  # bytes of a request


@functools.cache
def python() -> list[str]:
    """The start of a command, in the place of [sys.executable]."""
    if not hasattr(os, 'pidfd_open'):  # not Linux
        return [sys.executable]
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, 'socket')
    command = [sys.executable, __file__, 'serve', path]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return [sys.executable, '-S', '-E', __file__, path]


def client(path: str, arguments: list[str]) -> None:
    """Has the server run a program, and ends as the program does."""
    waiting, child = [], []
    for number in FORWARDED:
        signal.signal(number, lambda n, _: os.kill(child[0], n) if child else waiting.append(n))
    connection = connect(path)
    request = {'arguments': arguments, 'env': dict(os.environ), 'folder': os.getcwd()}
    descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0, 1, 2]))]
    content = json.dumps(request).encode()
    connection.sendmsg([len(content).to_bytes(4, 'big')], descriptors)
    connection.sendall(content)
    child.append(int(connection.recv(32)))
    for number in waiting:
        os.kill(child[0], number)
    status = os.waitstatus_to_exitcode(int(connection.recv(32)))
    if status >= 0:
        os._exit(status)
    if -status in FORWARDED:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


def connect(path: str) -> socket.socket:
    """The server's socket; waits for its imports."""
    connection = socket.socket(socket.AF_UNIX)
    for _ in range(3000):
        try:
            connection.connect(path)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.1)
    raise TimeoutError(f'no server at {path}')


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """A request, and its stdin, stdout and stderr."""
    size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    content = b''
    while len(content) < int.from_bytes(size, 'big'):
        content += connection.recv(LIMIT)
    return json.loads(content), descriptors


def next_program(listener: socket.socket) -> dict:
    """Serves; returns in each child, with its request."""
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                request, descriptors = receive(connection)
                pid = os.fork()
                if pid == 0:
                    for number, descriptor in enumerate(descriptors):
                        os.dup2(descriptor, number)
                    return request
                for descriptor in descriptors:
                    os.close(descriptor)
                connection.sendall(str(pid).encode())
                ended = os.pidfd_open(pid)
                ready.register(ended, selectors.EVENT_READ, (pid, connection))
                ready.register(connection, selectors.EVENT_READ, pid)
            elif isinstance(key.fileobj, int):  # a child has ended
                pid, connection = key.data
                _, status = os.waitpid(pid, 0)
                if connection in ready.get_map():
                    ready.unregister(connection)
                    connection.sendall(str(status).encode())
                connection.close()
                ready.unregister(key.fileobj)
                os.close(key.fileobj)
            else:  # a client was killed
                ready.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)


def run(request: dict) -> None:
    """Runs a program as `python` does with these arguments."""
    import jax

    for name, value in request['env'].items() - os.environ.items():
        if name.lower() in jax.config.values:  # JAX reads them when it is imported
            jax.config.update(name.lower(), int(value) if value.isdigit() else value)
    os.environ.clear()
    os.environ.update(request['env'])
    os.chdir(request['folder'])
    sys.path[1:1] = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
    kind, *rest = request['arguments']
    if kind == '-c':
        sys.argv, sys.path[0] = ['-c', *rest[1:]], ''
        exec(compile(rest[0], '<string>', 'exec'), {'__name__': '__main__'})
    elif kind == '-m':
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    else:
        sys.argv, sys.path[0] = [kind, *rest], os.path.dirname(os.path.abspath(kind))
        runpy.run_path(kind, run_name='__main__')


if __name__ == '__main__':
    if sys.argv[1] == 'serve':
        for library in LIBRARIES:
            __import__(library)
        gc.collect()
        gc.freeze()
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(sys.argv[2])
            door.listen(64)
            program = next_program(door)
        run(program)
    else:
        client(sys.argv[1], sys.argv[2:])
