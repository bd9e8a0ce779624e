"""Fifty harmless attempts of ordinary kinds, by which the guards of the sandbox are told apart.

Each is a piece of Python that ends without an error where it got what it tried for. `facts` holds what is outside: see
`outside.py`. A test looks from outside whether those marked by `seen` had an effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["read", "write", "network", "process", "resource"]


@dataclass(frozen=True)
class Attempt:
    """An attempt.

    Attributes:
        words: as the table of the docs says it.
        code: what is tried.
        limits_hold: whether limits alone contain it; the other guards contain all.
        place: the fact that names where this user needs the right to write; without it limits alone contain it, too.
        alone: runs in a child of its own, which it may end, with the status that it should get.
    """

    words: str
    kind: Kind
    code: str
    limits_hold: bool = False
    alone: tuple[str, ...] = ()
    place: str = ""


def _resource(words: str, code: str, *status: str, limits_hold: bool = True) -> Attempt:
    return Attempt(words, "resource", code, limits_hold, status)


ATTEMPTS = (
    Attempt("read a file of the user", "read", "open(facts['secret']).read()"),
    Attempt("read it by a relative path", "read", "open(os.path.relpath(facts['secret'])).read()"),
    Attempt("list a folder of the user", "read", "os.listdir(facts['folder'])"),
    Attempt("read the list of accounts", "read", "open('/etc/passwd').read()"),
    Attempt("read the source that runs it", "read", "open(facts['source']).read()"),
    Attempt("list the devices of the machine", "read", "assert os.listdir('/sys')"),
    Attempt("read a secret in the environment", "read", "os.environ[facts['variable']]", limits_hold=True),
    Attempt(
        "read the parent's environment", "read", "assert open(f\"/proc/{facts['parent']}/environ\").read()"
    ),
    Attempt("read the parent's command", "read", "assert open(f\"/proc/{facts['parent']}/cmdline\").read()"),
    Attempt("list the parent's open files", "read", "os.listdir(f\"/proc/{facts['parent']}/fd\")"),
    Attempt("list the parent's folder", "read", "os.listdir(f\"/proc/{facts['parent']}/cwd\")"),
    Attempt(
        "make a file in a folder of the user", "write", "open(facts['folder'] + '/made', 'w').write('x')"
    ),
    Attempt("append to a file of the user", "write", "open(facts['appended'], 'a').write('x')"),
    Attempt("empty a file of the user", "write", "os.truncate(facts['emptied'], 0)"),
    Attempt("delete a file of the user", "write", "os.remove(facts['deleted'])"),
    Attempt("rename a file of the user", "write", "os.rename(facts['renamed'], facts['renamed'] + '.new')"),
    Attempt("change the rights of a file", "write", "os.chmod(facts['chmodded'], 0o777)"),
    Attempt("link to a file of the user", "write", "os.link(facts['secret'], facts['folder'] + '/hard')"),
    Attempt("put a symbolic link beside it", "write", "os.symlink('/etc', facts['folder'] + '/soft')"),
    Attempt(
        "leave a file in the shared `/tmp`",
        "write",
        "open(facts['in_tmp'], 'w').write('x'); outside('in_tmp')",
    ),
    Attempt(
        "leave a file in shared memory", "write", "open(facts['in_shm'], 'w').write('x'); outside('in_shm')"
    ),
    Attempt(
        "write to the system's programs",
        "write",
        "assert os.access(facts['programs'], os.W_OK)",
        place="programs",
    ),
    Attempt(
        "write to the interpreter's library",
        "write",
        "assert os.access(facts['library'], os.W_OK)",
        place="library",
    ),
    Attempt(
        "leave a file in its own folder",
        "write",
        "open('left', 'w').write('x'); outside('left')",
        limits_hold=True,
    ),
    Attempt(
        "connect to a server of the machine", "network", "socket.create_connection(facts['tcp'], 1).close()"
    ),
    Attempt(
        "ask it over HTTP",
        "network",
        "urllib.request.urlopen('http://%s:%s' % tuple(facts['tcp']), timeout=1)",
    ),
    Attempt("send it a datagram", "network", "udp(facts['udp']); outside('udp')"),
    Attempt("connect to a local socket", "network", "unix(facts['unix'])"),
    Attempt("connect to a local socket without a file", "network", "unix('\\0' + facts['abstract'])"),
    Attempt(
        "see which ports are open",
        "network",
        "assert '%04X' % facts['tcp'][1] in open('/proc/net/tcp').read()",
    ),
    Attempt("find the parent", "process", "os.kill(facts['parent'], 0)"),
    Attempt("signal the parent", "process", "os.kill(facts['parent'], signal.SIGURG)"),
    Attempt("signal the parent's group", "process", "os.killpg(facts['group'], 0)"),
    Attempt("end another process", "process", "os.kill(facts['ended'], signal.SIGTERM)"),
    Attempt("stop another process", "process", "os.kill(facts['stopped'], signal.SIGSTOP)"),
    Attempt("slow another process down", "process", "os.setpriority(os.PRIO_PROCESS, facts['slowed'], 10)"),
    Attempt("see what other processes run", "process", "assert facts['marker'] in commands()"),
    Attempt(
        "join the shared memory of another process", "process", "SharedMemory(facts['memory'], track=False)"
    ),
    _resource("take 1 GB of memory", "held = b'1' * (1 << 30)", "memory"),
    _resource("take it in eight children", "spread(8, 128 << 20)", "memory"),
    _resource("loop without end", "while True: pass", "timeout"),
    _resource("sleep without end", "time.sleep(1000)", "timeout"),
    _resource("loop and heed no signal", "deaf()\nwhile True: pass", "timeout"),
    _resource("start 100 children", "spread(100, 0)", "killed"),
    _resource("start 500 threads", "threads(500)", "failed", "memory", "killed"),
    _resource("write a file of 100 MB", "write('large', 100)", "failed"),
    _resource(
        "write 100 MB in ten files", "[write(f'part{n}', 10) for n in range(10)]", "failed", limits_hold=False
    ),
    _resource("open 1,000 files", "held = [open('main.py') for _ in range(1000)]", "failed"),
    _resource("leave a child behind", "leave(facts['left_child'])", "ok"),
    _resource("leave a daemon behind", "leave(facts['left_daemon'], daemon=True)", "ok"),
)

TOOLS = '''
import json, os, resource, signal, socket, sys, threading, time, urllib.request
from multiprocessing import shared_memory

facts = json.load(open("facts.json"))

def outside(name):
    """What only the outside can tell: tried, and seen there or not."""

def SharedMemory(name, track):
    with open(f"/dev/shm/{name}", "rb") as file:
        assert file.read(1)

def udp(place):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", tuple(place))

def unix(place):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(place)

def commands():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid():
            try:
                found.append(open(f"/proc/{pid}/cmdline").read())
            except OSError:
                pass
    return "".join(found)

def spread(children, each):
    for _ in range(children):
        if os.fork() == 0:
            held = b"1" * each
            time.sleep(20)
            os._exit(0)
    time.sleep(20)

def deaf():
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(one, signal.SIG_IGN)

def threads(count):
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()

def write(name, megabytes):
    with open(name, "wb") as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))

def leave(marker, daemon=False):
    if os.fork() == 0:
        if daemon:
            os.setsid()
            if os.fork():
                os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(20)", marker])
    time.sleep(0.1)
'''
