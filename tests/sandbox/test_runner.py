"""Programs in the sandbox: right ones pass, and no trick makes a wrong one pass or outlive its judge."""

import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from t5x_like.sandbox import confinement, runner
from t5x_like.sandbox.candidate import Failure

ADD = {
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(5, 5) == 10\n",
    "entry_point": "add",
}


def works(namespaces: bool) -> bool:
    try:
        return runner.passes_tests(runner.PROBE, runner.PROBE["completion"], 30, 1024, namespaces)
    except runner.StartError:
        return False


@pytest.fixture(params=[True, False], ids=["namespaces", "limits only"], scope="module")
def namespaces(request):
    if not works(request.param):
        pytest.skip("the system, or Python's folder, does not allow it")
    return request.param


def passes(body: str, namespaces: bool, problem=ADD, seconds: float = 3.0, megabytes: int = 1024) -> bool:
    return runner.passes_tests(problem, textwrap.indent(textwrap.dedent(body), "    "), seconds, megabytes, namespaces)


def judged(test: str, program: str, namespaces: bool) -> bool:
    """Whether the lines of a test pass for a program that defines f."""
    problem = {"prompt": "", "test": "def check(f):\n" + textwrap.indent(test, "    "), "entry_point": "f"}
    return runner.passes_tests(problem, program, 3, 1024, namespaces)


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(a, *, b=2): print('noise'); return a + b", "assert f(1) == 3 and f(1, b=5) == 6"),
        ("def f(x): x.sort(); x.append({1: [2]})", "x = [3, 1]\ny = x\nassert f(x) is None and y == [1, 3, {1: [2]}]"),
        ("def f(d): d['a'][0].add(3)", "inner = {1}\nd = {'a': [inner]}\nf(d)\nassert inner == {1, 3}"),
        (
            "def f(x): return {(1, None): [{2.5, 3}, b'x', frozenset('a')]}, (True,)",
            "assert f(0) == ({(1, None): [{2.5, 3}, b'x', frozenset('a')]}, (True,)) and type(f(0)) is tuple",
        ),
        ("def f(x): return x / 3, float('inf'), 2**x, -x, 1j", "assert f(70) == (70 / 3, float('inf'), 2**70, -70, 1j)"),
        ("def f(n):\n for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2] and f(3) != [0, 1, 2]"),
        ("def f(x): return range(x)", "assert f(3) == range(3)"),
        ("import collections\ndef f(x): return collections.Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        (
            "class E(KeyError): pass\ndef f(x): raise E('no', x)",
            "try: f(2)\nexcept KeyError as e: assert e.args == ('no', 2)\nelse: assert False",
        ),
        ("def f(x): return f(x - 1) + 1 if x else 0", "assert f(200) == 200"),
        ("def f(x): return '\\ud800\\n\\u2028' + x", "assert f('é') == '\\ud800\\n\\u2028é'"),
        ("class A: pass\ndef g(): return 1\ndef f(x): return isinstance(A(), A) + g()", "assert f(0) == 2"),
    ],
)  # fmt: skip
def test_values_exceptions_and_changed_arguments_reach_the_tests(program, test, namespaces):
    assert judged(test, program, namespaces)


@pytest.mark.parametrize(
    "program",
    [
        "def f(x): return lambda: x",
        "def f(x): return object()",
        "def f(x): return [f]",
        "def f(x):\n while True: yield x",
        "def f(x):\n a = []\n a.append(a)\n return a",
        "def f(x): return 'x' * 10**8",
        "def f(x): x.append(f)",
        "def f(x): raise SystemExit",
        "def f(x): raise StopIteration",
        "g = 1",
        "def f(x",
    ],
)
def test_what_cannot_travel_fails_even_if_the_tests_catch_everything(program, namespaces):
    test = "for _ in map(f, [[1]]): pass"
    assert not judged(test if "Stop" in program else f"try: {test}\nexcept: pass", program, namespaces)


EQUAL = (
    "class E({base}):\n    def __eq__(s, o): return True\n    __ne__ = __lt__ = __eq__\n    __hash__ = None\nreturn E()"
)
TRICKS = {
    "exits": "import os; os._exit(0)",
    "object": EQUAL.format(base="object"),
    "int": EQUAL.format(base="int"),
    "list": EQUAL.format(base="list"),
    "str": EQUAL.format(base="str"),
    "float": EQUAL.format(base="float"),
    "main": "import __main__; return getattr(__main__, 'password', vars(__main__))",
    "frames": """
        import sys
        frame = sys._getframe()
        while frame:
            for name, value in [*frame.f_locals.items(), *frame.f_globals.items()]:
                if 'assert ' + 'candidate' in repr(value):
                    return 3 if a == 1 else 10
            frame = frame.f_back
        """,
    "garbage collector": """
        import gc
        texts = [text for one in gc.get_objects() if isinstance(one, dict) for text in one.values()]
        if any('assert ' + 'candidate' in text for text in texts if isinstance(text, str)):
            return 3 if a == 1 else 10
        """,
    "atexit": "import atexit, os\natexit.register(lambda: [os.write(n, b'p') for n in range(20)])",
    "writes to every file": """
        import os
        for number in range(200):
            try: os.write(number, b'sp')
            except OSError: pass
        """,
    "builtins": """
        import builtins, json
        builtins.all = builtins.any = builtins.isinstance = builtins.len = lambda *a, **k: True
        json.dumps = lambda *a, **k: '{"value": true}'
        """,
    "own messages": """
        import os
        for number in range(3, 20):
            try: os.write(number, b'{"object": 1}\\n{"value": {"object": "E"}}\\n{"raised": ["SystemExit", [0]]}\\n' * 9)
            except OSError: pass
        """,
    "modules": """
        import sys
        class Yes:
            def __getattr__(s, n): return s
            def __call__(s, *a, **k): return {"value": {"set": [[1]]}}
        for name in list(sys.modules):
            if 'sandbox' in name or name == 'json': sys.modules[name] = Yes()
        sys.modules['t5x_like.sandbox.values'].encode = Yes()
        """,
    "trace": "import sys\nsys.settrace(lambda *a: None); sys.exit(0)",
    "the judge's memory": """
        import os
        for pid in [os.getppid(), *filter(str.isdigit, os.listdir('/proc'))]:
            text = open(f'/proc/{pid}/mem', 'rb').read() or open(f'/proc/{pid}/cmdline').read()
            if 'candidate' in text: return 3 if a == 1 else 10
        """,
    "kills": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "ignores signals": """
        import signal, time
        for number in (1, 2, 3, 13, 14, 15): signal.signal(number, signal.SIG_IGN)
        while True: time.sleep(1)
        """,
    "memory": "return [0] * 10**10",
    "raises": "raise AssertionError",
    "redefines": "return 0\ndef check(candidate): pass",
    "recursion": "return add(a, b)",
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_do_not_pass(trick, namespaces):
    if trick == "kills" and not namespaces and os.geteuid():
        pytest.skip("it would kill the tests")
    assert not passes(TRICKS[trick], namespaces, seconds=1.0)


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "raise SystemExit",
        "import atexit, os; atexit.register(lambda: os.write(4, b'p'))",
        "add = type('E', (), {'__call__': lambda *a: 0})()",
        "def check(candidate): pass",
    ],
)
def test_tricks_beside_the_function_do_not_pass(code, namespaces):
    assert not runner.passes_tests(ADD, f"    return 0\n{code}\n", 3, 1024, namespaces)


def test_right_solutions_pass_and_wrong_ones_fail(namespaces):
    assert passes("return a + b", namespaces) and not passes("return a - b", namespaces)


def test_helpers_of_the_prompt_are_its_own(namespaces):
    problem = {
        "prompt": "import math\ndef square(x):\n    return x * x\n\n\ndef root(x):\n",
        "test": "def check(candidate):\n    assert square(candidate(9)) == 9 and math.pi > 3\n",
        "entry_point": "root",
    }
    assert passes("return math.sqrt(x)", namespaces, problem)
    assert not passes("return 1\nglobals()['square'] = lambda x: 9", namespaces, problem)
    assert not runner.passes_tests(problem, "    return 1\ndef square(x): return 9\n", 3, 1024, namespaces)


@pytest.mark.parametrize(
    "body",
    [
        "import os\nos.fork()",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.system('true') and 1/0",
    ],
)
def test_no_process_and_no_thread_starts(body, namespaces):
    assert not passes(f"{body}\nreturn a + b", namespaces)


REACHES = {
    "a file of the user": "open({file!r}).read()",
    "the password file": "open('/etc/passwd').read()",
    "other processes": "os.kill({pid}, 0)",
    "the list of processes": "os.listdir('/proc/{pid}')",
    "the network": "socket.create_connection(('127.0.0.1', {port}), 1)",
    "the host of a virtual machine": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "the keyring of the user": "1 / (ctypes.CDLL(None).syscall({keyctl}, 0, -3, 0) >= 0)",
    "a folder of Python": "open(os.path.join(os.path.dirname(os.__file__), 'new'), 'w')",
    "the root folder": "os.mkdir('/new')",
    "a new namespace": "1 / (ctypes.CDLL(None).unshare(0x20000) == 0)",
    "a new user namespace": "1 / (ctypes.CDLL(None).unshare(0x10020000) == 0)",
    "another root folder": "os.chroot('/scratch')",
    "a file in memory": "open(os.memfd_create('m'), 'wb').write(bytes(20 * 2**20))",
    "root": "os.setuid(0)",
    "a mount": "1 / (ctypes.CDLL(None).mount(b'none', b'/scratch', b'tmpfs', 0, None) == 0)",
    "too much scratch": "[open(str(n), 'wb').write(bytes(2**20)) for n in range({scratch})]",
}


@pytest.mark.parametrize("what", REACHES)
def test_a_program_in_namespaces_reaches_nothing_of_the_machine(what, tmp_path):
    if not works(True):
        pytest.skip("the system has no namespaces for this user")
    (tmp_path / "secret").write_text("text")
    with socket.create_server(("127.0.0.1", 0)) as server:
        keyctl = confinement.FORBIDDEN[os.uname().machine][1][3]
        known = {
            "keyctl": keyctl,
            "file": str(tmp_path / "secret"),
            "pid": os.getpid(),
            "port": server.getsockname()[1],
        }
        reach = REACHES[what].format(scratch=confinement.MEGABYTES + 2, **known)
        body = f"import ctypes, os, socket\ntry:\n    {reach}\nexcept Exception:\n    return a + b"
        assert passes(body, True)
    assert passes("open('f', 'w').write('1')\nimport tempfile, os\ntempfile.TemporaryFile()\nreturn a + b", True)


def test_nothing_outlives_the_judge(namespaces, tmp_path):
    """Also a program that has left its session and refuses to end with its parent."""
    mark = tmp_path / "mark"
    tmp_path.chmod(0o777)
    body = f"""
        import ctypes, os, time
        os.setsid() if os.getpid() != os.getsid(0) else None
        ctypes.CDLL(None).prctl(1, 0)
        while True:
            time.sleep(1.5)
            open({str(mark)!r}, "w")
        """
    begin = time.monotonic()
    assert not passes(body, namespaces, seconds=0.5)
    assert time.monotonic() - begin < 10
    time.sleep(1.5)
    assert not mark.exists()


def test_the_program_ends_with_a_killed_caller(namespaces):
    code = (
        "import sys; from t5x_like.sandbox import runner; sys.stdout.flush(); "
        f"runner.passes_tests({ADD!r}, '    while True: pass\\n', 60, 1024, {namespaces})"
    )
    marked = "T5X_LIKE_TEST_SEARCH_" + str(os.getpid())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", f"{code} # {marked}"], env=environment)
    started = wait_for(lambda: len(descendants(process.pid)) >= 3)
    pids = descendants(process.pid)
    process.kill()
    process.wait()
    assert started and wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def wait_for(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def descendants(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(one) for one in file.read().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def test_protections_are_known():
    found = runner.protections()
    assert found["limits of time, memory and messages"] and found["no network"] == runner.has_namespaces()


def test_a_call_ends_in_time_also_if_its_answer_comes_byte_by_byte(namespaces):
    program = """
        import gc, time
        (end,) = (each.end for each in gc.get_objects() if type(each).__name__ == "Channel")
        def f(x):
            while x:
                end.sendall(b" ")
                time.sleep(0.1)
            return x
        """
    with runner.run_function(textwrap.dedent(program), "f", 0.5, 1024, namespaces) as function:
        assert function(0) == 0
        begin = time.monotonic()
        with pytest.raises(Failure, match="timed out"):
            function(1)
        assert time.monotonic() - begin < 5
