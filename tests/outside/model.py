"""A model for programs outside of cargo: the Messages API, streamed piece by piece.

What it answers is a function of the request: questions are words like Q17, and it answers all
of those that it was asked and has not answered yet.
"""

import json
import re
import time

PIECES = 6
QUESTION = r"\bQ\d+[a-z]*\b"


def event(name, **data):
    return f"event: {name}\ndata: {json.dumps(dict(data, type=name))}\n\n"


def stream(blocks, pause=0.0):
    """The events of one reply; blocks are ("text", text) or ("tool", name, arguments)."""
    yield event("message_start", message={
        "id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": [],
        "usage": {"input_tokens": 100, "output_tokens": 1}})
    for index, block in enumerate(blocks):
        if block[0] == "text":
            start = {"type": "text", "text": ""}
            kind, field, whole = "text_delta", "text", block[1]
        else:
            start = {"type": "tool_use", "id": f"toolu_{time.time_ns()}", "name": block[1], "input": {}}
            kind, field, whole = "input_json_delta", "partial_json", json.dumps(block[2])
        yield event("content_block_start", index=index, content_block=start)
        size = max(1, len(whole) // PIECES)
        for at in range(0, len(whole), size):
            yield event("content_block_delta", index=index, delta={"type": kind, field: whole[at:at + size]})
            time.sleep(pause)
        yield event("content_block_stop", index=index)
    reason = "tool_use" if any(block[0] == "tool" for block in blocks) else "end_turn"
    yield event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 20})
    yield event("message_stop")


def parts(message, kind):
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return [part for part in content if part["type"] == kind]


def calls(request):
    """Labels of the calls it has made in this context."""
    return [call["input"]["label"] for m in request["messages"] for call in parts(m, "tool_use")]


def open_questions(request):
    """What it was asked since its last answer."""
    messages = request["messages"]
    answers = [n for n, m in enumerate(messages) if m["role"] == "assistant" and not parts(m, "tool_use")]
    found = []
    for message in messages[answers[-1] + 1 if answers else 0:]:
        if message["role"] == "user":
            for part in parts(message, "text"):
                found += re.findall(QUESTION, part["text"])
    return list(dict.fromkeys(found))
