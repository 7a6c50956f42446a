"""usage: world.py MOM PYTHON

mom against software that nobody of this project wrote: litellm's proxy in three wire formats,
llama.cpp's server with a model made here, nginx as TLS front end of Slack and squid as the
proxy in between. PYTHON has litellm[proxy], xllamacpp and gguf. What is missing is skipped.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import common
import model
import slack as fake
from common import ok

HERE = Path(__file__).parent
CERTIFICATES = HERE.parent / "data"


def wait(what, look, seconds=120):
    return common.wait(what, look, seconds)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def answers_at(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


class World:
    """A directory, programs started in it, and mom to be called."""

    def __init__(self, mom, python):
        self.mom, self.python = os.path.abspath(mom), python
        self.home = Path(tempfile.mkdtemp(prefix="mom-world-"))
        self.started = []
        self.effects = self.home / "effects"

    def start(self, name, *command, **env):
        process = subprocess.Popen(command, env=dict(os.environ, **env), stdin=subprocess.DEVNULL,
                                   stdout=open(self.home / f"{name}.log", "ab"), stderr=subprocess.STDOUT,
                                   start_new_session=True)
        self.started.append(process)
        return process

    def end(self):
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # It has ended.
            process.wait()

    def env(self, **more):
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), **more}

    def chat(self, text, *args, **env):
        """One message at `mom --chat`: what it answers, what it says beside, how it ends."""
        data = tempfile.mkdtemp(dir=self.home)
        done = subprocess.run([self.mom, "--chat", *args, data], input=text, env=self.env(**env), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        return done.stdout.strip(), done.stderr.strip(), done.returncode

    def think(self, _path, request):
        """The model behind it all: a command once, then the answer."""
        questions, done = model.open_questions(request), model.calls(request)
        for question in questions:
            if question.endswith("run") and question not in done:
                command = f"echo {question} | tee -a '{self.effects}'"
                return model.stream([("text", "I look."), ("tool", "bash", {"label": question, "command": command})])
        return model.stream([("text", "Answer to " + " ".join(questions))])

    def runs(self):
        return self.effects.read_text().split() if self.effects.exists() else []


# litellm.

LITELLM = """
model_list:
  - {{model_name: "*", litellm_params: {{model: anthropic/claude-fake, api_base: "{url}", api_key: sk-x}}}}
  - {{model_name: mocked, litellm_params: {{model: openai/mocked, mock_response: "This is **mocked**."}}}}
  - {{model_name: dead, litellm_params: {{model: openai/dead, api_base: "http://127.0.0.1:9/v1", api_key: sk-x}}}}
general_settings: {{master_key: sk-master}}
litellm_settings: {{num_retries: 0}}
"""


def litellm(world):
    proxy = Path(world.python).with_name("litellm")
    if not proxy.exists():
        return print("skipped: litellm is not there")
    backend = fake.Slack()
    fake.start(backend, world.think)
    config, port = world.home / "litellm.yaml", free_port()
    config.write_text(LITELLM.format(url=backend.url))
    world.start("litellm", proxy, "--config", config, "--port", str(port), "--host", "127.0.0.1",
                LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MASTER_KEY="sk-master")
    url = f"http://127.0.0.1:{port}"
    wait("litellm", lambda: answers_at(f"{url}/health/liveliness"), 300)
    at_v1 = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "sk-master"}
    plain = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "sk-master"}
    for number, (path, name, env) in enumerate([
            ("chat completions", "custom/any", at_v1), ("messages", "anthropic/claude-any", plain),
            ("responses", "openai/gpt-5.6-any", at_v1)]):
        question = f"Q{number}run"
        out, err, code = world.chat(f"{question} please\n", f"--model={name}", **env)
        assert code == 0 and out.endswith(f"Answer to {question}"), f"{path}: {code}\n{out}\n{err}"
        assert world.runs().count(question) == 1, f"{path}: {world.runs()}"
        ok(f"litellm, {path}: a tool call and the answer, streamed; {err.splitlines()[-1]}")
    out, err, code = world.chat("hello\n", "--model=custom/mocked", **at_v1)
    assert code == 0 and "This is **mocked**." in out, f"{code}\n{out}\n{err}"
    ok("litellm's own mock, streamed")
    for what, name, env in [("a wrong key", "custom/any", dict(at_v1, OPENAI_API_KEY="sk-wrong")),
                            ("a dead server behind it", "custom/dead", at_v1)]:
        out, err, code = world.chat("hello\n", f"--model={name}", **env)
        assert out == "" or "Answer" not in out, out
        ok(f"litellm, {what}: exit {code}, {err.splitlines()[-1]!r}")


# llama.cpp.

MAKE_MODEL = r'''
import sys
import gguf, numpy
n, width, wide = 259, 64, 128
random = numpy.random.default_rng(1)
out = gguf.GGUFWriter(sys.argv[1], "llama")
out.add_context_length(32768); out.add_embedding_length(width); out.add_block_count(1)
out.add_feed_forward_length(wide); out.add_head_count(2); out.add_head_count_kv(2)
out.add_layer_norm_rms_eps(1e-5); out.add_rope_dimension_count(width // 2); out.add_vocab_size(n)
out.add_tokenizer_model("llama")
out.add_token_list(["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)])
out.add_token_scores([0.0] * n)
out.add_token_types([2, 3, 3] + [6] * 256)
out.add_bos_token_id(1); out.add_eos_token_id(2); out.add_unk_token_id(0)
out.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ")
def add(name, *shape):
    value = numpy.ones(shape) if name.endswith("norm.weight") else random.normal(0, 0.2, shape)
    out.add_tensor(name, value.astype(numpy.float32))
add("token_embd.weight", n, width); add("output_norm.weight", width); add("output.weight", n, width)
for part in ["attn_norm", "ffn_norm"]:
    add(f"blk.0.{part}.weight", width)
for part in ["attn_q", "attn_k", "attn_v", "attn_output"]:
    add(f"blk.0.{part}.weight", width, width)
for part in ["ffn_gate", "ffn_up"]:
    add(f"blk.0.{part}.weight", wide, width)
add("blk.0.ffn_down.weight", width, wide)
out.write_header_to_file(); out.write_kv_data_to_file(); out.write_tensors_to_file(); out.close()
'''

SERVE_MODEL = r'''
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params.n_predict, params.n_parallel, params.use_jinja, params.cpuparams.n_threads = 60, 1, True, 2
params.warmup = False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
while True:
    time.sleep(60)
'''


def llamacpp(world):
    has = subprocess.run([world.python, "-c", "import xllamacpp, gguf"], stderr=subprocess.DEVNULL)
    if has.returncode:
        return print("skipped: llama.cpp (xllamacpp, gguf) is not there")
    path = world.home / "tiny.gguf"
    subprocess.run([world.python, "-c", MAKE_MODEL, path], check=True)
    for window in (32768, 4096):
        port = free_port()
        server = world.start("llamacpp", world.python, "-c", SERVE_MODEL, path, str(port), str(window))
        url = f"http://127.0.0.1:{port}"
        wait("llama.cpp", lambda: answers_at(f"{url}/health"))
        env = {"LLAMACPP_BASE_URL": f"{url}/v1"}
        data = world.home / f"check-{window}"
        data.mkdir()
        check = subprocess.run([world.mom, "--check", "--model=llamacpp/tiny", data], env=world.env(**env), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        lines = [line for line in check.stdout.splitlines() if "model" in line]
        out, err, code = world.chat("hello\n", "--model=llamacpp/tiny", **env)
        if window > 4096:
            assert code == 0 and out, f"{code}\n{out}\n{err}"
        assert "panic" not in err, err
        ok(f"llama.cpp, window {window}: --check says {lines}; exit {code}, {len(out)} characters of noise, "
           f"{err.splitlines()[-1]!r}")
        server.kill()
        server.wait()


# nginx and squid.

NGINX = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/nginx-error.log;
events {{ worker_connections 100; }}
http {{
    access_log {home}/nginx-access.log; gzip on; gzip_types application/json; gzip_min_length 1;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
    uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port} ssl http2; server_name localhost;
        ssl_certificate {certificates}/server.pem; ssl_certificate_key {certificates}/server.key;
        location / {{
            proxy_pass {backend}; proxy_http_version 1.1; proxy_buffering off;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""

SQUID = """
http_port 127.0.0.1:{port}
pid_filename {home}/squid.pid
access_log stdio:{home}/squid-access.log
cache_log {home}/squid-cache.log
cache deny all
cache_effective_user proxy
auth_param basic program /usr/lib/squid/basic_ncsa_auth {home}/passwords
acl known proxy_auth REQUIRED
http_access allow CONNECT known
http_access deny all
shutdown_lifetime 0 seconds
"""


def front_ends(world):
    if not shutil.which("nginx") or not shutil.which("squid"):
        return print("skipped: nginx and squid are not there (apt install nginx-light squid)")
    world.home.chmod(0o777)
    slack = fake.Slack()
    fake.start(slack, world.think)
    tls, proxy = free_port(), free_port()
    front = world.home / "nginx.conf"
    front.write_text(NGINX.format(home=world.home, port=tls, certificates=CERTIFICATES, backend=slack.url))
    start_nginx = lambda: world.start("nginx", "nginx", "-c", front, "-e", world.home / "nginx-error.log")
    nginx = start_nginx()
    digest = subprocess.run(["openssl", "passwd", "-apr1", "se:cret"], stdout=subprocess.PIPE, text=True, check=True)
    (world.home / "passwords").write_text(f"lena:{digest.stdout}")
    config = world.home / "squid.conf"
    config.write_text(SQUID.format(home=world.home, port=proxy))
    world.start("squid", "squid", "-N", "-f", config)
    for port in (tls, proxy):
        wait(f"port {port}", lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
    # From here on everybody comes by nginx.
    slack.url = f"https://localhost:{tls}"
    env = world.env(MOM_SLACK_APP_TOKEN=fake.APP_TOKEN, MOM_SLACK_BOT_TOKEN=fake.BOT_TOKEN, NO_PROXY="example.org",
                    MOM_SLACK_API_URL=f"{slack.url}/api", ANTHROPIC_API_KEY="sk-x", ANTHROPIC_BASE_URL=slack.url,
                    SSL_CERT_FILE=str(CERTIFICATES / "ca.pem"),
                    HTTPS_PROXY=f"http://lena:se%3Acret@127.0.0.1:{proxy}")
    data = world.home / "data"
    log = open(world.home / "mom.log", "ab")
    mom = subprocess.Popen([world.mom, data], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    world.started.append(mom)
    wait("a socket", lambda: slack.sockets)

    def asked(question, **more):
        slack.mention("C01", "U07", f"{question} please", **more)
        wait(f"an answer to {question}", lambda: any(
            fake.shown(m) == f"Answer to {question}" for m in slack.of_mom("C01")))

    asked("Q7run", files=[slack.file("a.txt", b"inside")])
    local = next((data / "C01" / "attachments").iterdir())
    assert local.read_text() == "inside"
    ok("Slack, its files and the model over TLS at nginx, by a proxy with a password")
    nginx.terminate()
    nginx.wait()
    wait("the socket's end", lambda: not slack.sockets)
    nginx = start_nginx()
    wait("a socket", lambda: slack.sockets)
    asked("Q8")
    ok("nginx restarted: connected again, and answers")
    mom.terminate()
    assert mom.wait(10) == 0
    # Squid logs a tunnel when it ends.
    tunnels = wait("the tunnels' log", lambda: (world.home / "squid-access.log").read_text())
    count = len(re.findall(rf"TCP_TUNNEL/200 \d+ CONNECT localhost:{tls} lena", tunnels))
    assert count >= 4 and "GET /link" in (world.home / "nginx-access.log").read_text(), tunnels
    ok(f"{count} tunnels by squid, all of them with the name lena")
    wrong = dict(env, HTTPS_PROXY=f"http://lena:wrong@127.0.0.1:{proxy}")
    check = subprocess.run([world.mom, "--check", data], env=wrong, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True)
    line = next(line for line in check.stdout.splitlines() if "407" in line or "proxy" in line.lower())
    assert check.returncode == 1 and "wrong" not in check.stdout, check.stdout
    ok(f"a wrong password for the proxy: {line.strip()!r}")


def main():
    failed = False
    for part in (litellm, llamacpp, front_ends):
        if len(sys.argv) > 3 and part.__name__ not in sys.argv[3:]:
            continue
        world = World(sys.argv[1], sys.argv[2])
        try:
            part(world)
        except (AssertionError, subprocess.SubprocessError) as err:
            failed = True
            print(f"FAILED: {part.__name__}: {err}\n  its files are in {world.home}", flush=True)
        else:
            shutil.rmtree(world.home, ignore_errors=True)
        finally:
            world.end()
    sys.exit(failed)


main()
