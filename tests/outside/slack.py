"""A Slack for programs outside of cargo: Web API and Socket Mode on one port.

It keeps messages with their metadata as Slack does, delivers again what was not acked, and
refuses little: what Slack refuses is the affair of tests/it/slack. Python's library alone.
"""

import base64
import hashlib
import json
import socket
import struct
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

APP_TOKEN = "xapp-1-test"
BOT_TOKEN = "xoxb-1-test"
BOT = "U0BOT"
PEOPLE = {"U07": "lena", "U08": "otto", BOT: "mom"}
WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refused(Exception):
    """An answer with `ok: false` and this code."""


class Slack:
    """The workspace. `lock` guards all of it and wakes those who wait for a change."""

    def __init__(self):
        self.lock = threading.Condition(threading.RLock())
        self.channels = {
            "C01": {"id": "C01", "name": "general", "is_channel": True},
            "C02": {"id": "C02", "name": "ops", "is_channel": True},
            "D07": {"id": "D07", "user": "U07", "is_im": True},
            "D08": {"id": "D08", "user": "U08", "is_im": True},
        }
        self.messages = {name: [] for name in self.channels}
        self.files = {}
        self.uploads = {}
        self.thread_status = {}
        self.unacked = {}
        self.sockets = []
        self.calls = 0
        self.is_down = False
        self.last_us = 0
        self.next_id = 0
        self.url = ""

    # What people do.

    def say(self, channel, user, text, thread=None, files=()):
        """A person's message; its ts. A mention gives two events, as in Slack."""
        with self.lock:
            message = {"type": "message", "user": user, "text": text, "ts": self.new_ts()}
            if thread:
                message["thread_ts"] = thread
            if files:
                message["files"] = list(files)
            self.messages[channel].append(message)
            self.tell(channel, message, "file_share" if files else None)
            if f"<@{BOT}>" in text and not self.channels[channel].get("is_im"):
                mention = dict(message, type="app_mention", channel=channel, event_ts=message["ts"])
                self.emit(mention)
            return message["ts"]

    def mention(self, channel, user, text, **more):
        return self.say(channel, user, f"<@{BOT}> {text}", **more)

    def file(self, name, data):
        """A file to be shared with `say`."""
        with self.lock:
            number = self.new_id("F")
            url = f"{self.url}/files/{number}/{name}"
            self.files[number] = data
            return {"id": number, "name": name, "title": name, "mimetype": "text/plain", "mode": "hosted",
                    "size": len(data), "url_private": url, "url_private_download": url}

    def press(self, channel, message, action, user="U07"):
        """Presses the button with this action, if the message still has it; was it there?"""
        with self.lock:
            for button in buttons(message):
                if button["action_id"] == action:
                    place = {"type": "message", "message_ts": message["ts"], "channel_id": channel}
                    self.send({"type": "interactive", "accepts_response_payload": False, "payload": {
                        "type": "block_actions", "user": {"id": user}, "channel": {"id": channel},
                        "container": place, "message": message, "actions": [button]}})
                    return True
            return False

    def cut(self):
        """Every socket ends, without a word."""
        with self.lock:
            for sock in self.sockets:
                shut(sock)

    def go_down(self):
        """The network is gone: nothing connects, nothing answers."""
        with self.lock:
            self.is_down = True
        self.cut()

    def come_back(self):
        with self.lock:
            self.is_down = False

    # What a test sees.

    def of_mom(self, channel):
        with self.lock:
            return [dict(m) for m in self.messages[channel] if m["user"] == BOT]

    def wait(self, look, seconds=30):
        """Waits until `look` gives something true, and gives that; None after so long."""
        until = time.monotonic() + seconds
        with self.lock:
            while True:
                found = look()
                left = until - time.monotonic()
                if found or left <= 0:
                    return found or None
                self.lock.wait(min(left, 0.1))

    # Events.

    def new_ts(self):
        self.last_us = max(self.last_us + 1, int(time.time() * 1e6))
        return f"{self.last_us // 1000000}.{self.last_us % 1000000:06}"

    def new_id(self, prefix):
        self.next_id += 1
        return f"{prefix}{self.next_id:05}"

    def tell(self, channel, message, subtype=None):
        kind = "im" if self.channels[channel].get("is_im") else "channel"
        event = dict(message, channel=channel, channel_type=kind, event_ts=message["ts"])
        event.pop("metadata", None)
        if subtype:
            event["subtype"] = subtype
        self.emit(event)

    def emit(self, event):
        self.send({"type": "events_api", "accepts_response_payload": False, "payload": {
            "type": "event_callback", "team_id": "T01", "api_app_id": "A01", "event_id": self.new_id("Ev"),
            "authorizations": [{"team_id": "T01", "user_id": BOT, "is_bot": True}], "event": event}})

    def send(self, envelope):
        envelope["envelope_id"] = self.new_id("e-")
        self.unacked[envelope["envelope_id"]] = envelope
        if self.sockets:
            self.push(self.sockets[-1], envelope)
        self.lock.notify_all()

    def push(self, sock, envelope):
        try:
            sock.sendall(frame(1, json.dumps(envelope).encode()))
        except OSError:
            pass  # It comes again on the next socket.

    # The Web API: a method each, named as Slack's with underscores.

    def call(self, method, args, token):
        with self.lock:
            self.calls += 1
            try:
                wants = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
                if token != wants:
                    raise Refused("invalid_auth")
                run = getattr(self, "do_" + method.replace(".", "_"), None)
                if not run:
                    raise Refused("unknown_method")
                answer = dict(run(args) or {}, ok=True)
            except Refused as refused:
                answer = {"ok": False, "error": str(refused)}
            self.lock.notify_all()
            return answer

    def find(self, channel, ts, code="message_not_found"):
        for message in self.messages.get(channel, []):
            if message["ts"] == ts:
                return message
        raise Refused(code)

    def do_apps_connections_open(self, _):
        return {"url": self.url.replace("http", "ws", 1) + "/link?ticket=" + self.new_id("t")}

    def do_auth_test(self, _):
        return {"url": "https://fake.slack.com/", "team": "Fake", "team_id": "T01", "user": "mom",
                "user_id": BOT, "bot_id": "B0BOT"}

    def do_users_info(self, args):
        if args["user"] not in PEOPLE:
            raise Refused("user_not_found")
        return {"user": person(args["user"])}

    def do_users_list(self, _):
        return {"members": [person(user) for user in PEOPLE]}

    def do_conversations_info(self, args):
        if args["channel"] not in self.channels:
            raise Refused("channel_not_found")
        return {"channel": dict(self.channels[args["channel"]], is_member=True)}

    def do_conversations_list(self, _):
        return {"channels": [dict(channel, is_member=True) for channel in self.channels.values()]}

    do_users_conversations = do_conversations_list

    def do_conversations_open(self, args):
        return {"channel": {"id": "D" + args["users"][1:]}}

    def do_conversations_history(self, args):
        roots = [m for m in self.messages[args["channel"]] if m.get("thread_ts", m["ts"]) == m["ts"]]
        return self.page(args, list(reversed(roots)))

    def do_conversations_replies(self, args):
        asked = self.find(args["channel"], args["ts"], "thread_not_found")
        root = asked.get("thread_ts", asked["ts"])
        replies = [m for m in self.messages[args["channel"]] if m.get("thread_ts") == root and m["ts"] != root]
        return self.page(args, [self.find(args["channel"], root)] + replies, root)

    def page(self, args, found, root=None):
        oldest, latest = float(args.get("oldest") or 0), float(args.get("latest") or "inf")
        inclusive = args.get("inclusive") == "true"

        def fits(message):
            at = float(message["ts"])
            return message["ts"] == root or oldest < at < latest or inclusive and at in (oldest, latest)

        found = [self.seen(m, args) for m in found if fits(m)]
        start, limit = int(args.get("cursor") or 0), int(args.get("limit") or 100)
        more = start + limit < len(found)
        return {"messages": found[start:start + limit], "has_more": more,
                "response_metadata": {"next_cursor": str(start + limit) if more else ""}}

    def seen(self, message, args):
        message = dict(message)
        if args.get("include_all_metadata") != "true":
            message.pop("metadata", None)
        replies = [m for channel in self.messages.values() for m in channel
                   if m.get("thread_ts") == message["ts"] and m["ts"] != message["ts"]]
        if replies:
            message.update(thread_ts=message["ts"], reply_count=len(replies), latest_reply=replies[-1]["ts"])
        return message

    def do_chat_postMessage(self, args):
        if args["channel"] not in self.channels:
            raise Refused("channel_not_found")
        message = {"type": "message", "user": BOT, "bot_id": "B0BOT", "app_id": "A01", "ts": self.new_ts()}
        self.fill(message, args)
        if args.get("thread_ts"):
            self.find(args["channel"], args["thread_ts"], "thread_not_found")
            message["thread_ts"] = args["thread_ts"]
            self.thread_status.pop((args["channel"], args["thread_ts"]), None)
        self.messages[args["channel"]].append(message)
        self.tell(args["channel"], message)
        return {"channel": args["channel"], "ts": message["ts"], "message": message}

    def do_chat_update(self, args):
        message = self.find(args["channel"], args["ts"])
        before = dict(message)
        self.fill(message, args)
        message["edited"] = {"user": BOT, "ts": message["ts"]}
        self.tell_change(args["channel"], "message_changed", message=message, previous_message=before)
        return {"channel": args["channel"], "ts": args["ts"], "text": message["text"]}

    def do_chat_delete(self, args):
        message = self.find(args["channel"], args["ts"])
        self.messages[args["channel"]].remove(message)
        self.tell_change(args["channel"], "message_deleted", deleted_ts=args["ts"], previous_message=message)

    def tell_change(self, channel, subtype, **more):
        self.tell(channel, dict(more, type="message", ts=self.new_ts(), hidden=True), subtype)

    def fill(self, message, args):
        if not args.get("text", "").strip() and not args.get("blocks"):
            raise Refused("no_text")
        message["text"] = args.get("text", "")
        message["blocks"] = json.loads(args.get("blocks") or "[]")
        if args.get("metadata"):
            message["metadata"] = json.loads(args["metadata"])

    def do_reactions_add(self, args):
        message = self.find(args["channel"], args["timestamp"])
        names = message.setdefault("reactions", [])
        if any(reaction["name"] == args["name"] for reaction in names):
            raise Refused("already_reacted")
        names.append({"name": args["name"], "count": 1, "users": [BOT]})

    def do_assistant_threads_setStatus(self, args):
        place = (args["channel_id"], args["thread_ts"])
        if args["status"]:
            self.thread_status[place] = args["status"]
        else:
            self.thread_status.pop(place, None)

    def do_files_getUploadURLExternal(self, args):
        number = self.new_id("F")
        self.uploads[number] = {"id": number, "name": args["filename"], "size": int(args["length"])}
        return {"file_id": number, "upload_url": f"{self.url}/upload/{number}"}

    def do_files_completeUploadExternal(self, args):
        files = [self.uploads[file["id"]] for file in json.loads(args["files"])]
        if any(file["id"] not in self.files for file in files):
            raise Refused("file_not_found")
        message = {"type": "message", "user": BOT, "bot_id": "B0BOT", "ts": self.new_ts(),
                   "text": args.get("initial_comment", ""), "files": files}
        if args.get("thread_ts"):
            message["thread_ts"] = args["thread_ts"]
        self.messages[args["channel_id"]].append(message)
        self.tell(args["channel_id"], message, "file_share")
        return {"files": files}

    def do_files_info(self, args):
        return {"file": self.uploads.get(args["file"]) or {"id": args["file"]}}

    # Socket Mode.

    def serve_socket(self, sock):
        """Until either side ends it."""
        with self.lock:
            self.sockets.append(sock)
            hello = {"type": "hello", "num_connections": len(self.sockets), "connection_info": {"app_id": "A01"}}
            self.push(sock, hello)
            for envelope in list(self.unacked.values()):
                self.push(sock, dict(envelope, retry_attempt=1, retry_reason="timeout"))
            self.lock.notify_all()
        try:
            while True:
                kind, data = read_frame(sock)
                if kind == 8:
                    return
                if kind == 9:
                    sock.sendall(frame(10, data))
                if kind == 1:
                    with self.lock:
                        self.unacked.pop(json.loads(data).get("envelope_id"), None)
                        self.lock.notify_all()
        except OSError:
            return
        finally:
            with self.lock:
                self.sockets.remove(sock)
                self.lock.notify_all()


def person(user):
    name = PEOPLE[user]
    return {"id": user, "name": name, "real_name": name, "team_id": "T01", "is_bot": user == BOT,
            "deleted": False, "tz": "Europe/Berlin", "profile": {"display_name": name, "real_name": name}}


def buttons(message):
    blocks = message.get("blocks") or []
    elements = [element for block in blocks for element in block.get("elements") or []]
    return [element for element in elements if element.get("type") == "button"]


def shown(message):
    """What a person reads: the blocks when they say anything, else the text."""
    texts = [block["text"] for block in message.get("blocks") or [] if isinstance(block.get("text"), str)]
    return "\n".join(texts) or message.get("text", "")


# HTTP and WebSocket.


def shut(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # It is gone already.


def frame(kind, data):
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x80 | kind, size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | kind, 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | kind, 127, size)
    return head + data


def read_exactly(sock, count):
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionError("the other side is gone")
        data += piece
    return data


def read_frame(sock):
    first, second = read_exactly(sock, 2)
    size = second & 127
    if size == 126:
        (size,) = struct.unpack("!H", read_exactly(sock, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", read_exactly(sock, 8))
    mask = read_exactly(sock, 4)
    data = read_exactly(sock, size)
    return first & 15, bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    slack = None
    # Answers what is not Slack's: path and JSON body to a list of pieces, see model.py.
    model = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        path, _, query = self.path.partition("?")
        if self.slack.is_down or len(body) < size:
            self.close_connection = True
        elif path.startswith("/api/"):
            pairs = urllib.parse.parse_qsl(query + "&" + body.decode(), keep_blank_values=True)
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            self.reply(json.dumps(self.slack.call(path[5:], dict(pairs), token)).encode())
        elif path == "/link":
            self.upgrade()
        elif path.startswith("/upload/"):
            self.slack.files[path.split("/")[2]] = body
            self.reply(b"OK", "text/plain")
        elif path.startswith("/files/"):
            self.reply(self.slack.files[path.split("/")[2]], "text/plain")
        elif self.model and self.command == "POST":
            self.stream(self.model(path, json.loads(body)))
        else:
            self.reply(b"{}", status=404)

    def reply(self, data, kind="application/json", status=200):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, pieces):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            data = piece.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def upgrade(self):
        key = self.headers["sec-websocket-key"] + WEBSOCKET
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        for name, value in [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept)]:
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        self.slack.serve_socket(self.connection)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request, client_address):
        # mom is killed while she is answered; all else is a fault of this fake.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def start(slack, model=None, port=0):
    """Serves the workspace, and the model, until the process ends."""
    handler = type("Bound", (Handler,), {"slack": slack, "model": staticmethod(model) if model else None})
    server = Server(("127.0.0.1", port), handler)
    slack.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
