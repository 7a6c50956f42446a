"""usage: soak.py MOM [KILLS]

Kills mom at random instants of a long conversation with tools, threads, files, events and
approvals, over one data directory and one Slack that forgets nothing; then lets clocks jump,
stops the process for minutes and takes the network away. Each question must be answered
once, each command run at most once, and no button may be left. SOAK_SEED repeats a run.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import model
import slack as fake

GIVEN_UP = "_Sorry, something went wrong_"
QUESTION = model.QUESTION
# How long an answer may take on a busy machine before it counts as lost.
PATIENCE = 60
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


class Stage:
    """mom, her Slack, her model, and the people who talk to her."""

    def __init__(self, binary, home):
        self.binary, self.home, self.data = binary, home, home / "data"
        (self.data / "events").mkdir(parents=True)
        (self.data / "report.txt").write_text("12345")
        self.slack = fake.Slack()
        fake.start(self.slack, self.think)
        self.log = open(home / "log", "ab")
        self.process = None
        self.asked = {}  # question: channel
        self.files = {}  # question: what is in its file
        self.interrupted = set()
        self.given_up = set()
        self.names = {}  # question: its name in the ledger
        self.told = {}  # channel: how often it was told that mom gave up
        self.clock = None
        self.presser = threading.Thread(target=self.press_all, daemon=True)
        self.presser.start()

    # The model.

    def think(self, path, request):
        """Does what it is asked once, and answers all it was not asked before."""
        if path != "/v1/messages":
            return model.stream([("text", "?")])
        questions = model.open_questions(request)
        done = model.calls(request)
        if "interrupted" in json.dumps(request):
            self.interrupted.update(questions)
        for question in questions:
            if question in done:
                continue
            if question.endswith("run"):
                command = f"echo {question} >>'{self.data}/effects'"
                arguments = {"label": question, "command": command}
                return model.stream([("tool", "bash", arguments)], pause=0.01)
            if question.endswith("send"):
                arguments = {"label": question, "path": f"{self.data}/report.txt"}
                return model.stream([("text", "Here."), ("tool", "attach", arguments)], pause=0.01)
        return model.stream([("text", "Answer to " + " ".join(questions))], pause=0.02)

    # The process.

    def fake_clock(self):
        """From the next start on mom's clock is what the file `clock` says, where libfaketime is there."""
        if Path(FAKETIME).exists():
            self.clock = self.home / "clock"
            self.clock.write_text("+0")

    def start(self, *, settle=True):
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TZ": "Europe/Berlin",
               "MOM_SLACK_APP_TOKEN": fake.APP_TOKEN, "MOM_SLACK_BOT_TOKEN": fake.BOT_TOKEN,
               "MOM_SLACK_API_URL": self.slack.url + "/api",
               "ANTHROPIC_API_KEY": "sk-ant-test", "ANTHROPIC_BASE_URL": self.slack.url}
        if self.clock:
            env.update(LD_PRELOAD=FAKETIME, FAKETIME_TIMESTAMP_FILE=str(self.clock), FAKETIME_NO_CACHE="1",
                       FAKETIME_DONT_FAKE_MONOTONIC="1")
        self.process = subprocess.Popen([self.binary, "--approve=changes", str(self.data)], env=env,
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        if settle:
            assert self.slack.wait(lambda: self.slack.sockets), "mom does not connect"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        # The fake notices that the socket is gone.
        assert self.slack.wait(lambda: not self.slack.sockets), "the socket stays"

    def end(self):
        self.process.terminate()
        code = self.process.wait(10)
        assert code == 0, f"mom ended with {code}"
        assert self.slack.wait(lambda: not self.slack.sockets), "the socket stays"

    # The people.

    def press_all(self):
        """Someone who approves what they see, after a moment."""
        pressed = set()
        chance = random.Random(7)
        while True:
            for channel in list(self.slack.channels):
                for message in self.slack.of_mom(channel):
                    for button in fake.buttons(message):
                        if button["action_id"] == "approve" and button["value"] not in pressed:
                            time.sleep(chance.uniform(0, 0.2))
                            pressed.add(button["value"])
                            self.slack.press(channel, message, "approve")
            time.sleep(0.02)

    def ask(self, kind):
        question = f"Q{len(self.asked) + 1}" + {"run": "run", "send": "send"}.get(kind, "")
        channel = {"dm": "D08", "file": "C02", "event": "C02"}.get(kind, "C01")
        self.asked[question] = channel
        self.names[question] = question
        if kind == "event":
            event = {"type": "immediate", "channelId": channel, "text": f"{question} look around"}
            path = self.data / "events" / f"{question}.json"
            path.with_suffix(".tmp").write_text(json.dumps(event))
            path.with_suffix(".tmp").rename(path)
        elif kind == "dm":
            self.names[question] = self.slack.say(channel, "U08", f"{question} hello")
        elif kind == "thread":
            root = self.slack.say(channel, "U08", "the build is red")
            text = f"{question} and here?"
            self.names[question] = self.slack.mention(channel, "U07", text, thread=root)
        elif kind == "file":
            self.files[question] = f"inside {question}"
            file = self.slack.file(f"{question}.txt", self.files[question].encode())
            self.names[question] = self.slack.mention(channel, "U07", f"{question} read it", files=[file])
        else:
            self.names[question] = self.slack.mention(channel, "U07", f"{question} please")
        return question

    # What must hold.

    def answers(self):
        """Question: how often it was answered. What has a button still grows."""
        count = dict.fromkeys(self.asked, 0)
        for channel in self.slack.channels:
            for message in self.slack.of_mom(channel):
                text = fake.shown(message)
                if text.startswith("Answer to ") and not fake.buttons(message):
                    for question in re.findall(QUESTION, text.splitlines()[0]):
                        count[question] = count.get(question, 0) + 1
        return count

    def note_given_up(self):
        """What was given up after two tries: the ledger has it as done, and the channel was told
        so, since the last look."""
        for channel in self.slack.channels:
            told = sum(fake.shown(m).startswith(GIVEN_UP) for m in self.slack.of_mom(channel))
            path = self.data / channel / "runs.jsonl"
            if told > self.told.get(channel, 0) and path.exists():
                facts = [json.loads(line) for line in path.read_text().splitlines(keepends=True)
                         if line.endswith("\n")]
                done = [ts for fact in facts for ts in
                        fact.get("closed", []) + fact.get("ended", {}).get("requests", [])]
                self.given_up.update(q for q in self.lost() if self.asked[q] == channel
                                     and any(self.names[q] in name for name in done))

    def forget_told(self):
        for channel in self.slack.channels:
            self.told[channel] = sum(fake.shown(m).startswith(GIVEN_UP) for m in self.slack.of_mom(channel))

    def leftovers(self):
        """Messages that still have a button, and running labels below threads."""
        left = [f"{c}: {m['text']!r} {[b['action_id'] for b in fake.buttons(m)]}"
                for c in self.slack.channels for m in self.slack.of_mom(c) if fake.buttons(m)]
        return left + [f"{place}: {label}" for place, label in self.slack.thread_status.items()]

    def lost(self):
        return [q for q, times in self.answers().items() if times == 0 and q not in self.given_up]

    def finish(self):
        """Waits until all is answered and put away; what is missing then."""
        def is_over():
            if self.lost():
                self.note_given_up()
            return not self.lost() and not self.leftovers()

        self.slack.wait(is_over, PATIENCE)
        self.forget_told()
        lost = [f"lost: {self.lost()}"] if self.lost() else []
        return lost + [f"left: {what}" for what in self.leftovers()]

    def faults(self):
        """All that can be wrong with the whole of it."""
        answers = self.answers().items()
        faults = [f"doubled: {q} answered {n} times" for q, n in answers if n > 1]
        faults += [f"lost: the end of the answer {q}" for q, _ in answers if q not in self.asked]
        if self.lost():
            faults.append(f"lost: {self.lost()}")
        faults += [f"left: {what}" for what in self.leftovers()]
        path = self.data / "effects"
        effects = path.read_text().split() if path.exists() else []
        uploads = [m for c in self.slack.channels for m in self.slack.of_mom(c) if m.get("files")]
        sends = sum(question.endswith("send") for question in self.asked)
        if len(uploads) > sends:
            faults.append(f"doubled: {len(uploads)} files for {sends} requests")
        for question in self.asked:
            times = effects.count(question)
            known = question in self.interrupted or question in self.given_up
            if times > 1 or question.endswith("run") and times == 0 and not known:
                faults.append(f"{question} was run {times} times")
        for channel in self.slack.channels:
            faults += self.log_faults(channel)
        return faults

    def log_faults(self, channel):
        path = self.data / channel / "log.jsonl"
        if not path.exists():
            return []
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        said = [m["ts"] for m in self.slack.messages[channel] if m["user"] != fake.BOT]
        logged = sorted(line["ts"] for line in lines if not line["isBot"])
        faults = []
        if logged != said:
            extra = sorted(set(logged) ^ set(said)) or [ts for ts in set(logged) if logged.count(ts) > 1]
            faults.append(f"log of {channel}: lost or doubled {extra[:5]}")
        for line in lines:
            for attachment in line.get("attachments") or []:
                question = attachment["original"].removesuffix(".txt")
                inside = self.data / attachment["local"]
                if not inside.exists() or inside.read_text() != self.files[question]:
                    faults.append(f"the file of {question} is lost")
        return faults


KINDS = ["run", "run", "send", "plain", "thread", "dm", "file", "event"]


def kills(stage, count, chance):
    """Rounds of some questions, each with a kill or two while mom works on them."""
    stage.start()
    longest = warm_up(stage, chance)
    done, twice = 0, 0
    while done < count:
        for kind in chance.sample(KINDS, chance.randint(1, 4)):
            stage.ask(kind)
            time.sleep(chance.uniform(0, 0.05))
        time.sleep(chance.uniform(0, longest))
        stage.kill()
        done += 1
        stage.start(settle=False)
        # In every fourth round once more, while she finds out what was cut.
        if chance.random() < 0.25 and done < count:
            time.sleep(chance.uniform(0, longest / 2))
            stage.kill()
            stage.start(settle=False)
            done, twice = done + 1, twice + 1
        faults = stage.finish()
        if faults:
            return faults
        if done % 50 < 2:
            print(f"  {done} kills, {len(stage.asked)} questions", flush=True)
    print(f"{done} kills ({twice} of them a second one), {len(stage.asked)} questions, "
          f"{len(stage.given_up)} given up after two tries")
    stage.end()
    return stage.faults()


def warm_up(stage, chance):
    """How long a round takes that nobody disturbs, seconds."""
    longest = 0
    for _ in range(3):
        began = time.monotonic()
        for kind in chance.sample(KINDS, 4):
            stage.ask(kind)
        assert not stage.finish(), "not even an undisturbed round ends well"
        longest = max(longest, time.monotonic() - began)
    return longest


def everything(stage):
    for kind in sorted(set(KINDS)):
        stage.ask(kind)
    return stage.finish()


def clocks(stage, _count, _chance):
    """The host's clock jumps almost a day ahead, and a day back, while mom runs and while she doesn't."""
    stage.fake_clock()
    if not stage.clock:
        print("skipped: libfaketime is not there (apt install faketime)")
        return []
    stage.start()
    faults = everything(stage)
    # Not the whole day ahead: a request more than 24 hours old that had not begun when mom was
    # killed is rightly not answered any more.
    for jump in ["+82800", "+0", "-86400", "+0"]:
        stage.clock.write_text(jump)
        day = time.strftime("%Y-%m-%d ", time.localtime(time.time() + int(jump)))
        faults += [f"at {jump} s: {fault}" for fault in everything(stage)]
        stage.ask("run")
        stage.ask("dm")
        stage.kill()
        stage.start()
        faults += [f"killed at {jump} s: {fault}" for fault in stage.finish()]
        stage.end()
        stage.ask("plain")
        stage.ask("dm")
        stage.start()
        faults += [f"away at {jump} s: {fault}" for fault in stage.finish()]
        assert f"\n{day}" in Path(stage.log.name).read_text(), f"mom's clock does not jump {jump} s"
    stage.end()
    return faults + stage.faults()


def stopped(stage, _count, _chance):
    """SIGSTOP for ten minutes by mom's clock, with Slack's sockets gone meanwhile."""
    stage.fake_clock()
    stage.start()
    faults = []
    for _ in range(3):
        for kind in ["run", "dm", "file"]:
            stage.ask(kind)
        stage.process.send_signal(signal.SIGSTOP)
        stage.slack.cut()
        stage.slack.wait(lambda: not stage.slack.sockets)
        stage.ask("plain")
        stage.ask("thread")
        if stage.clock:
            stage.clock.write_text(f"{int(stage.clock.read_text()) + 600:+}")
        stage.process.send_signal(signal.SIGCONT)
        faults += stage.finish()
    stage.end()
    return faults + stage.faults()


def network(stage, _count, _chance):
    """No network for an hour by mom's clock, with a run under way and questions meanwhile."""
    stage.fake_clock()
    stage.start()
    faults = everything(stage)
    for kind in ["run", "send", "dm"]:
        stage.ask(kind)
    time.sleep(0.1)
    stage.slack.go_down()
    for kind in ["plain", "thread", "event", "file"]:
        stage.ask(kind)
    # mom has tried some times.
    time.sleep(5)
    if stage.clock:
        stage.clock.write_text("+3600")
    stage.slack.come_back()
    faults += stage.finish()
    stage.end()
    return faults + stage.faults()


def main():
    binary, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1 << 30))
    parts = os.environ.get("SOAK_PARTS", "kills clocks stopped network").split()
    print(f"seed {seed}")
    failed = False
    for part in parts:
        home = Path(tempfile.mkdtemp(prefix="mom-soak-"))
        stage = Stage(os.path.abspath(binary), home)
        print(f"{part}: {globals()[part].__doc__.splitlines()[0]}", flush=True)
        try:
            faults = globals()[part](stage, count, random.Random(seed))
        finally:
            if stage.process and stage.process.poll() is None:
                stage.process.kill()
                stage.process.wait()
        words = {word: sum(word in fault for fault in faults) for word in ["lost", "doubled", "left"]}
        print(f"{part}: {len(stage.asked)} questions, {words['lost']} lost, {words['doubled']} doubled, "
              f"{words['left']} buttons left, {len(faults)} faults in all", flush=True)
        for fault in faults:
            print(f"  {fault}")
        if faults:
            failed = True
            print(f"  the data directory and mom's log are in {home}")
        else:
            shutil.rmtree(home)
    sys.exit(failed)


main()
