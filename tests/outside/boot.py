"""usage: boot.py PACKAGE.deb ROOT

Boots the Debian in ROOT with systemd-nspawn, installs the package there and lets the unit do
what it is for: ready when connected, credentials, watchdog, restarts, journal, stop, upgrade,
reboot, removal. Slack and the model are fakes on this machine. As root.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import model
import slack as fake
from common import ok, wait

DROP_IN = """
[Service]
# There is no Docker in here.
SupplementaryGroups=
ExecStart=
ExecStart=/usr/bin/mom --sandbox=host /var/lib/mom/data
# Sooner than for people.
WatchdogSec=6
RestartSec=1
"""
STOP_SECONDS = 3


class Machine:
    """A Debian, booted."""

    def __init__(self, root):
        self.root = root
        self.process = subprocess.Popen(
            ["systemd-nspawn", "-D", root, f"--machine=mom-{os.getpid()}", "--boot", "--quiet", "--register=no",
             "--keep-unit", "--resolv-conf=off", "--timezone=off"],
            stdin=subprocess.DEVNULL, stdout=open(root + ".log", "ab"), stderr=subprocess.STDOUT)
        self.init = wait("an init", self.find_init)
        wait("a booted system", lambda: self.run("systemctl", "is-system-running").strip() in ("running", "degraded"))

    def find_init(self):
        """The process that is number 1 in there."""
        below = [self.process.pid]
        while below:
            pid = below.pop()
            children = Path(f"/proc/{pid}/task/{pid}/children")
            below += [int(child) for child in children.read_text().split()] if children.exists() else []
            status = Path(f"/proc/{pid}/status")
            if status.exists() and re.search(r"^NSpid:\t\d+\t1$", status.read_text(), re.M):
                return pid
        return None

    def run(self, *command):
        """What it prints."""
        words = ["nsenter", "-t", str(self.init), "-a", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                 "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *command]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.code = done.returncode
        return done.stdout

    def must(self, *command):
        out = self.run(*command)
        assert self.code == 0, f"{command}: {self.code}\n{out}"
        return out

    def of_unit(self, name):
        return self.run("systemctl", "show", "-P", name, "mom").strip()

    def pid(self):
        """mom's, as this machine counts."""
        inside = self.of_unit("MainPID")
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                if re.search(rf"^NSpid:\t(\d+\t)?{inside}$", status.read_text(), re.M):
                    exe = os.readlink(status.parent / "exe")
                    if exe.endswith("/usr/bin/mom"):
                        return int(status.parent.name)
            except OSError:
                pass  # It has ended.
        return None

    def write(self, path, text, mode=0o644):
        path = Path(self.root + path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def off(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Talk:
    """The fakes, and what people say."""

    def __init__(self):
        self.slack = fake.Slack()
        fake.start(self.slack, self.think)

    def think(self, path, request):
        questions, done = model.open_questions(request), model.calls(request)
        for question in questions:
            if question.endswith("run") and question not in done:
                command = f"echo start >>{question}; sleep 4; env"
                return model.stream([("tool", "bash", {"label": question, "command": command})])
        return model.stream([("text", "Answer to " + " ".join(questions))])

    def connected(self):
        return bool(self.slack.sockets)

    def answers(self, question):
        return [m for m in self.slack.of_mom("C01") if fake.shown(m) == f"Answer to {question}"]

    def ask(self, question):
        self.slack.mention("C01", "U07", question)

    def asked(self, question):
        self.ask(question)
        wait(f"an answer to {question}", lambda: self.answers(question))

    def working(self, question):
        """Its command has begun."""
        self.ask(question)
        wait(f"work on {question}", lambda: any(question in str(m.get("blocks")) and "in_progress" in str(m["blocks"])
                                                for m in self.slack.of_mom("C01")))

    def once(self, question):
        wait(f"an answer to {question}", lambda: self.answers(question))
        count = len(self.answers(question))
        assert count == 1, f"{question} was answered {count} times"


def install(machine, package, talk):
    name = Path(package).name
    machine.write(f"/root/{name}", "")
    Path(f"{machine.root}/root/{name}").write_bytes(Path(package).read_bytes())
    machine.must("dpkg", "-i", f"/root/{name}")
    assert machine.of_unit("ActiveState") == "inactive", "mom runs before she is set up"
    machine.write("/etc/credstore/MOM_SLACK_APP_TOKEN", fake.APP_TOKEN, 0o600)
    machine.write("/etc/credstore/MOM_SLACK_BOT_TOKEN", fake.BOT_TOKEN + "\n", 0o600)
    machine.write("/etc/credstore/ANTHROPIC_API_KEY", "sk-ant-test", 0o600)
    machine.write("/etc/mom.env", f"MOM_SLACK_API_URL={talk.slack.url}/api\nANTHROPIC_BASE_URL={talk.slack.url}\n")
    machine.write("/etc/systemd/system/mom.service.d/here.conf", DROP_IN)
    machine.must("systemctl", "daemon-reload")
    ok("installed, and not started before it is set up")
    return name


def start(machine, talk):
    machine.must("systemctl", "enable", "--now", "mom")
    assert talk.connected(), "ready before the socket is there"
    assert machine.of_unit("ActiveState") == "active"
    ok("ready by notify, when connected")
    talk.asked("Q1run")
    answer = str(talk.slack.messages["C01"])
    environ = Path(f"/proc/{machine.pid()}/environ").read_text()
    for secret in (fake.APP_TOKEN, fake.BOT_TOKEN, "sk-ant-test"):
        assert secret not in answer and secret not in environ, f"{secret} is in an environment"
    status = Path(f"/proc/{machine.pid()}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+)", status).group(1)
    user = re.search(r"Uid:\s+(\d+)", status).group(1)
    ok(f"tokens from credentials, in no environment; user {user}, {resident} kB resident")
    journal = machine.must("journalctl", "-u", "mom", "-o", "cat", "--no-pager")
    assert "connected to Slack" in journal and "\x1b" not in journal, journal
    ok("the journal is readable: " + journal.strip().splitlines()[-1])


def watchdog(machine, talk):
    before = machine.pid()
    os.kill(before, signal.SIGSTOP)
    wait("a restart of the stopped process", lambda: machine.of_unit("NRestarts") == "1" and talk.connected(), 120)
    assert machine.pid() != before
    talk.asked("Q2")
    ok("a stopped process is restarted by the watchdog: " + machine.must(
        "journalctl", "-u", "mom", "-o", "cat", "--no-pager", "-g", "[Ww]atchdog").strip().splitlines()[0])


def crash(machine, talk):
    talk.working("Q3run")
    os.kill(machine.pid(), signal.SIGKILL)
    wait("a restart after kill -9", lambda: machine.of_unit("NRestarts") == "2")
    talk.once("Q3run")
    left = [m for m in talk.slack.of_mom("C01") if fake.buttons(m)]
    assert not left, left
    ok("after kill -9 the run goes on, one answer, no button left")


def stop(machine, talk):
    talk.working("Q4run")
    began = time.monotonic()
    machine.must("systemctl", "stop", "mom")
    took = time.monotonic() - began
    assert took < STOP_SECONDS, f"{took:.1f} s to stop"
    assert machine.of_unit("Result") == "success", machine.of_unit("Result")
    texts = [fake.shown(m) for m in talk.slack.of_mom("C01")]
    assert any("Interrupted: mom is restarting" in text for text in texts), texts
    left = machine.run("pgrep", "-fa", "sleep 4")
    assert not left, left
    ok(f"systemctl stop took {took:.1f} s in the middle of a run, and Slack says so")
    machine.must("systemctl", "start", "mom")
    talk.once("Q4run")
    ok("the interrupted run is answered after the start")


def upgrade(machine, talk, name):
    before = machine.pid()
    machine.must("dpkg", "-i", f"/root/{name}")
    wait("the new process", lambda: machine.pid() not in (None, before) and talk.connected())
    talk.asked("Q5")
    ok("after an upgrade the new one runs")


def reboot(machine, talk):
    machine.off()
    wait("the socket's end", lambda: not talk.connected())
    talk.ask("Q6")
    machine = Machine(machine.root)
    talk.once("Q6")
    ok("after a reboot she is there, and answers what was said meanwhile")
    return machine


def remove(machine, talk):
    machine.must("dpkg", "-r", "mom-bot")
    wait("the socket's end", lambda: not talk.connected())
    assert "mom" not in machine.run("systemctl", "list-unit-files", "mom.service", "--state=enabled", "--no-legend")
    machine.must("dpkg", "-P", "mom-bot")
    log = Path(machine.root + "/var/lib/mom/data/C01/log.jsonl")
    assert "Answer to Q6" in log.read_text()
    assert not Path(machine.root + "/usr/bin/mom").exists()
    ok("removed and purged: the data is still there")


def main():
    package, root = sys.argv[1], sys.argv[2]
    talk = Talk()
    machine = Machine(root)
    ok("booted: " + machine.run("systemctl", "--version").splitlines()[0])
    try:
        name = install(machine, package, talk)
        start(machine, talk)
        watchdog(machine, talk)
        crash(machine, talk)
        stop(machine, talk)
        upgrade(machine, talk, name)
        machine = reboot(machine, talk)
        remove(machine, talk)
    except BaseException:
        print(machine.run("journalctl", "-u", "mom", "--no-pager", "-n", "40"), file=sys.stderr)
        raise
    finally:
        machine.off()


main()
