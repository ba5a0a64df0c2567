"""Makes the golden fixture of chat templates: transformers' results for the templates in chat/ and for CASES.

    pip install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
    python tests/golden/chat.py

The templates were written for this fixture, with the features of known families' templates. chat/cases.json holds a
list of {"template", "messages", "tools", "documents", "variables", "add_generation_prompt"} and "text", or "error" if
the template refuses the chat. NOW is noon in UTC, so the date is equal in all zones within twelve hours of UTC.
"""

import datetime
import json
import pathlib

import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = 1785067200  # 2026-07-26 12:00:00 UTC


class Noon(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name, **arguments):
    return {"id": "abcdefgh1", "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": " Be brief & <b>bold</b>. "}
WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather \"now\" in a city: <°C> & wind",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "Like Köln, 東京 or \U0001f600"},
        "accuracy": {"type": "number", "default": 1.0, "minimum": 1e-7, "maximum": 1e22},
        "days": {"type": ["integer", "null"], "default": None, "enum": [1, 2, True, None]}}},
    "return": {"type": "string"}}}
ZEBRA = {"type": "function", "function": {"parameters": {}, "name": "zebra", "description": "Nothing\n\tof 'use'\x7f\x01"}}
TOOLS = [WEATHER, ZEBRA]
CALLS = [SYSTEM, user("Is it warm in Köln?"), assistant(None, tool_calls=[call("weather", city="Köln", days=2, accuracy=0.1)]),
         {"role": "tool", "tool_call_id": "abcdefgh1", "content": '{"t": 21.5}'}, assistant(" It is. "), user("And there?")]
THINKING = [user("2 + 2?"), assistant("<think>\nEasy.\n</think>\n\n4"), user("3 + 3?"),
            assistant("\n6", reasoning="\nAs easy.\n", tool_calls=[call("zebra"), call("weather", city="'\"\\/")]),
            {"role": "tool", "content": "a"}, {"role": "tool", "content": [{"type": "text", "text": "b"}, {"type": "image"}]}]
DOCUMENTS = [{"title": "Cats", "text": " They purr.\n\nLoudly. ", "score": 1, "seen": True, "tags": ["a", "b"]},
             {"text": None}, {"title": None, "text": "é < \u2028 'q' \U0001f600"}, {"title": "never", "text": ""}]

CASES = [
    dict(template="chatml", messages=[user("Hi <you> & {{ me }}")]),
    dict(template="chatml", messages=[SYSTEM, user("a"), assistant("\n b \n"), user("c")]),
    dict(template="chatml", messages=[SYSTEM, user("a"), assistant("b")], add_generation_prompt=False),
    dict(template="chatml", messages=[user("a"), user("b")]),
    dict(template="llama3", messages=[user(" a ")]),
    dict(template="llama3", messages=[SYSTEM, user("a"), assistant("b"), user("c")], variables={"date_string": "1 Jan 2030"}),
    dict(template="llama3", messages=CALLS, tools=TOOLS),
    dict(template="llama3", messages=CALLS, tools=TOOLS, variables={"tools_in_user_message": False}),
    dict(template="llama3", messages=[SYSTEM], tools=TOOLS),
    dict(template="mistral", messages=CALLS, tools=TOOLS),
    dict(template="mistral", messages=[SYSTEM, user("a"), assistant(" b "), user("c")], add_generation_prompt=False),
    dict(template="mistral", messages=[user("a"), assistant(None, tool_calls=[{"function": {"name": "f"}}])], tools=[]),
    dict(template="mistral", messages=[user("a"), user("b")]),
    dict(template="qwen", messages=THINKING, tools=TOOLS),
    dict(template="qwen", messages=[SYSTEM, *THINKING[:3]], variables={"enable_thinking": False}),
    dict(template="qwen", messages=THINKING[:4], add_generation_prompt=False),
    dict(template="documents", messages=[SYSTEM, user("Which?")], documents=DOCUMENTS),
    dict(template="documents", messages=[user("Which?")], documents=[]),
]

chat_template_utils.datetime = Noon
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(HERE / "tokenizers" / "roberta.json"), bos_token="<s>", eos_token="</s>")
for case in CASES:
    case.setdefault("add_generation_prompt", True)
    template = (HERE / "chat" / f"{case['template']}.jinja").read_text()
    try:
        case["text"] = tokenizer.apply_chat_template(
            case["messages"], chat_template=template, tools=case.get("tools"), documents=case.get("documents"),
            add_generation_prompt=case["add_generation_prompt"], tokenize=False, **case.get("variables", {}))
    except Exception as e:
        assert type(e).__name__ == "TemplateError", (case, e)
        case["error"] = str(e)
lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in CASES)
(HERE / "chat" / "cases.json").write_text(f"[\n{lines}\n]\n")
