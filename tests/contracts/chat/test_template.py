"""Chat templates: those of known models render as with Jinja2, hostile ones end soon."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest
from jinja2 import Environment

from contracts.chat.template import MAX_CHARS, ChatTemplate
from contracts.errors import InputError
from contracts.requests import ChatMessage, Tool
from contracts.template_budget import SECONDS, Budget

CHAT = [ChatMessage("system", "be brief"), ChatMessage("user", " <think>a</think> hi\n")]


def doubled(first: str, again: str, times: int = 64) -> str:
    """A template that puts a value into a larger one, over and over."""
    return (
        f"{{% set ns = namespace(x={first}) %}}{{% for i in range({times}) %}}"
        f"{{% set ns.x = {again} %}}{{% endfor %}}"
    )


NESTED = doubled("[1]", "[ns.x, ns.x]", 30)
LONG = "{% set long = 'ab' * 200000 %}"
TURNS = "{% for i in range(4000) %}{% for j in range(4000) %}"
ENDS = "{% endfor %}{% endfor %}"
ATTACKS = {
    "a long text": "{{ 'a' * 10**9 }}",
    "a long text at compile time": "{{ 'a' * 3000000000 }}",
    "a long text, turned round": "{{ 10**9 * 'a' }}",
    "a long list": "{% set x = [0] * 10**9 %}",
    "a long tuple": "{% set x = (0, 1) * 10**9 %}",
    "a great power": "{{ 10 ** (10 ** 9) }}",
    "great powers": doubled("9", "ns.x ** 9"),
    "great products": doubled("9", "ns.x * ns.x"),
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": f"{TURNS}{ENDS}",
    "four nested loops": f"{TURNS * 2}{ENDS * 2}",
    "nested loops that skip": f"{TURNS}{{% continue %}}{ENDS}",
    "nested loops that filter": "{% for i in range(4000) %}"
    "{% for j in range(4000) if false %}" + ENDS,
    "nested loops in a macro": f"{{% macro f() %}}{TURNS}x{ENDS}{{% endmacro %}}{{{{ f() }}}}",
    "a loop that recurses": "{% for a in range(999) recursive %}{{ loop(range(999)) }}{% endfor %}",
    "a loop that recurses as a tree": "{% for a in [1, 1] recursive %}"
    "{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
    "a macro that recurses": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that recurses as a tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(60) }}",
    "a macro that doubles its text": "{% macro f(n) %}{% if n %}{% set x = f(n - 1) %}"
    "{{ x }}{{ x }}{% else %}xxxxxxxx{% endif %}{% endmacro %}{% set y = f(40) %}",
    "a block that recurses": "{% block a %}{{ self.a() }}{% endblock %}",
    "joined texts": doubled("'ab'", "ns.x ~ ns.x"),
    "added texts": doubled("'ab'", "ns.x + ns.x"),
    "added lists": doubled("[1]", "ns.x + ns.x"),
    "blocks of text": "{% set ns = namespace(x='ab') %}{% for i in range(64) %}"
    "{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}{% endfor %}",
    "the text of nested lists": NESTED + "{{ ns.x }}",
    "the text of nested lists, joined": NESTED + "{% set y = '' ~ ns.x %}",
    "the text of nested lists, by a filter": NESTED + "{% set y = ns.x | string %}",
    "the text of nested lists, as JSON": NESTED + "{% set y = ns.x | tojson %}",
    "the text of nested lists, by %": NESTED + "{% set y = '%s' % (ns.x,) %}",
    "the text of namespaces": doubled("1", "namespace(a=ns.x, b=ns.x)", 30) + "{{ ns.x }}",
    "nested lists compared": NESTED + NESTED.replace("ns", "nt") + "{{ ns.x == nt.x }}",
    "nested lists in a test": NESTED + NESTED.replace("ns", "nt") + "{{ ns.x is eq nt.x }}",
    "nested lists searched": NESTED + NESTED.replace("ns", "nt") + "{{ [ns.x].index(nt.x) }}",
    "nested tuples hashed": doubled("(1,)", "(ns.x, ns.x)", 30) + "{{ {ns.x: 1} }}",
    "nested tuples looked up": doubled("(1,)", "(ns.x, ns.x)", 30) + "{{ {}[ns.x] }}",
    "nested tuples in a set": doubled("(1,)", "(ns.x, ns.x)", 30) + "{{ [ns.x] | unique | list }}",
    "a wide field": "{{ '%999999999d' % 1 }}",
    "a wide field by a key": "{{ '%(a(b))999999999d' % {'a(b)': 1} }}",
    "a wide field by a value": "{{ '%*d' % (999999999, 1) }}",
    "a wide field by str.format": "{{ '{:999999999}'.format(1) }}",
    "a wide field by a method": "{{ 'a'.center(10**9) }}{{ 'a'.ljust(10**9) }}",
    "a wide field by a filter": "{{ 'a' | center(10**9) }}",
    "format by a filter": "{{ '%999999999d' | format(1) }}",
    "format by a name": "{{ '%(a)999999999d' | format(a=1) }}",
    "format by a width of its own": "{{ '{:{w}}'.format(1, w=999999999) }}",
    "format of an attribute": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "format of many fields": "{{ ('{:>99}' * 90000).format(*range(4000)) }}",
    "format of a long value, often": LONG + "{{ ('{0}' * 90000).format(long) }}",
    "a wide date": "{{ strftime_now('%999999999Y') }}",
    "a wide date by a flag": "{{ strftime_now('%_999999999d') }}",
    "many dates": "{{ strftime_now('%c' * 4000000) }}",
    "dates without end": TURNS + "{{ strftime_now('%c' * 1000) }}" + ENDS,
    "a long separator": LONG + "{{ (range(4000) | list) | tojson(separators=(long, long)) }}",
    "an indent of a date": "{{ strftime_now([1] * 900000) }}",
    "a deep indent": "{{ 'a\nb' | indent(10**9) }}",
    "a deep indent by a text": LONG + "{{ ('a\n' * 100000) | indent(long) }}",
    "a deep indent of JSON": "{{ [1] | tojson(indent=10**9) }}",
    "digits of a number": "{{ 2.5 | round(10**9, 'ceil') }}",
    "a large batch": "{{ [1] | batch(10**9, 1) | list }}",
    "a large slice": "{{ [1] | slice(10**9) | list }}",
    "prose without end": "{{ lipsum(n=10**6) }}",
    "tabs": "{{ '\t'.expandtabs(10**9) }}",
    "zeros": "{{ '1'.zfill(10**9) }}{{ (1).to_bytes(10**9) }}",
    "a text replaced by a text": LONG + "{{ long | replace('a', long) | length }}",
    "a text replaced by a method": LONG + "{{ long.replace('', long) | length }}",
    "a text as a separator": LONG + "{{ long.join(long) | length }}",
    "a text as a separator in a filter": LONG + "{{ (range(4000) | join(long)) | length }}",
    "a text searched from behind": "{{ ('a' * 400000).rfind('b' + 'a' * 200000) }}",
    "a text stripped of many letters": "{{ ('b' * 700000).strip('a' * 700000 + 'b') | length }}",
    "a list summed up": "{{ ([[1] * 1000] * 1000 * 100) | sum(start=[]) | length }}",
    "a list of slices": "{% set ns = namespace(x=[]) %}" + LONG + "{% for i in range(4000) %}"
    "{% set ns.x = [ns.x, long[:-1]] %}{% endfor %}",
    "output without text": TURNS + "{{ '' }}" * 500 + ENDS,
    "output in a macro": "{% macro f() %}" + LONG + TURNS + "{{ long }}" + ENDS
    + "{% endmacro %}{% set y = f() %}",
    "links": LONG + "{{ ('http://' + long + '.') | urlize }}",
    "tags": "{{ ('<' * 700000) | striptags }}",
    "words": LONG + "{{ long | wordwrap(1) | length }}",
    "texts that escape grow": "{% autoescape true %}" + doubled("'<'", "ns.x | e | forceescape")
    + "{% endautoescape %}",
    "another template": "{% include 'a' %}",
    "deep lists": doubled("[]", "[ns.x]", 4000) + "{{ ns.x }}",
    "deep parentheses": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "deep signs": "{{ " + "-" * 9000 + "1 }}",
    "deep blocks": "{% for i in [1] %}" * 40 + "{% endfor %}" * 40,
    "deep questions": "{% if 1 %}" * 900 + "{% endif %}" * 900,
    "many digits": "{{ " + "9" * 9000 + " }}",
    "a source too long": "a" * (MAX_CHARS + 1),
}  # fmt: skip

# As models ship them, in short: what each is known for. The last tries all that is supported.
TEMPLATES = {
    "llama 3": "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start|>' + message['role'] + '<|end|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
    "chatml": "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}",
    "qwen 3": "{%- set ns = namespace(searching=true, last=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.searching and message.role == 'user' and message.content is string"
    " and not (message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}"
    "{%- set ns.searching = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}"
    "{%- endif %}{{ m.role ~ ': ' ~ m.content.strip('\n') }}{% endfor %}{{ ns.last }}",
    "all": "{% macro f(x, y=2) -%}[{{ x }}{{ y }}{{ caller() if caller else '' }}]{%- endmacro %}"
    "{{ f('a') }}{{ f(*['b', 3]) }}{% call f('c') %}inside{% endcall %}"
    "{% for k, v in {'a': 1, 'b': [1, 2]}.items() %}{{ k }}={{ v | tojson }};{% endfor %}"
    "{{ [3, 1, 2] | sort | join(', ') }}{{ messages | map(attribute='role') | join('/') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{% set ns = namespace(a=[]) %}{% for i in range(3) %}{% set ns.a = ns.a + [i] %}{% endfor %}"
    "{{ ns.a }}{{ ns is defined }}{{ (1, 2)[0] }}{{ 'abc'[1:] }}{{ '%s-%03d' % ('x', 7) }}"
    "{% set b %}block{% endset %}{{ b | upper }}{% filter upper %}x{% endfilter %}"
    "{% for x in [[1, [2]], [3]] recursive %}{% if x is iterable %}({{ loop(x) }})"
    "{% else %}{{ x }}{% endif %}{% endfor %}{{ 5 // 2 * 3 - -1 }}{{ unknown }}{{ 2 ** 10 }}"
    "{{ 'in' if 2 in [2] else 'out' }}{{ messages[0].get('role') }}{{ {'a': 1}.a }}"
    "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ loop.cycle('a', 'b') }}"
    "{% else %}none{% endfor %}{% with a = 1 %}{{ a }}{% endwith %}{{ dict(a=1) }}"
    "{{ 2.5 | round(1) }}{{ ' a' | trim }}{{ 'a\nb' | indent(2) }}{{ unknown | default('D') }}"
    "{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}"
    "{{ 'a' * 3 }}{{ [0] * 2 }}{{ 'a-b'.split('-') | last }}{{ [1, 1] | unique | list }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_known_template_renders_as_with_jinja2(name: str) -> None:
    """What is counted changes no text."""
    plain = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    turns = [{"role": m.role, "content": m.content} for m in CHAT]
    expected = plain.from_string(TEMPLATES[name]).render(
        messages=turns, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert ChatTemplate(TEMPLATES[name], "<s>", "</s>").render(CHAT) == expected


def test_a_long_chat_has_room() -> None:
    """256 turns with the longest message there may be, through the template with most work."""
    turns = [ChatMessage("user", "a word " * 142) for _ in range(256)]
    assert len(ChatTemplate(TEMPLATES["qwen 3"]).render(turns)) > 250_000


def test_json_is_as_transformers_writes_it() -> None:
    """Texts in JSON are read by a model, not by a browser."""
    assert (
        ChatTemplate("{{ {'b': '<ä>', 'a': 1} | tojson }}").render(CHAT) == '{"b": "<ä>", "a": 1}'
    )


# Own templates, and what `apply_chat_template` of transformers 5.24.0 makes of them at NOW.
NOW = datetime(2026, 3, 7, 23, 59, 5)
DATED = (
    "{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "Today Date: {{ strftime_now('%d %B %Y') }}|{{ strftime_now('%-d.%m. %H:%M %j %a %%') }}\n"
    "{{ '/think' if enable_thinking else '/no_think' }}"
)
SEPARATED = (
    "{{ {'b': ['<ä>', 1.5, none], 'a': true} | tojson(separators=(',', ':'), sort_keys=true) }}"
)
REFERENCE: list[tuple[str, dict[str, Any], str]] = [
    (DATED, {}, "Today Date: 07 March 2026|7.03. 23:59 066 Sat %\n/think"),
    (
        DATED,
        {"enable_thinking": False},
        "Today Date: 07 March 2026|7.03. 23:59 066 Sat %\n/no_think",
    ),
    (
        (
            "{{ tools is defined }}{{ tools is none }}{{ documents is defined }}"
            "{{ strftime_now is defined }}{{ date_string is defined }}{{ add_generation_prompt }}"
        ),
        {},
        "TrueTrueTrueTrueFalseTrue",
    ),
    (
        (
            "{{ '{} {:>4}|{x:05.1f}|{y!r}'.format('ä', 7, x=2.25, y='q') }}"
            "{{ '%s-%02d' | format('x', 7) }}{{ '%(a)s' | format(a='b') }}"
        ),
        {},
        "ä    7|002.2|'q'x-07b",
    ),
    (SEPARATED, {}, '{"a":true,"b":["<ä>",1.5,null]}'),
]


@pytest.mark.parametrize(("template", "arguments", "expected"), REFERENCE)
def test_dates_arguments_and_formats_are_those_of_transformers(
    template: str, arguments: dict[str, Any], expected: str
) -> None:
    """Byte for byte: a model was trained on that text."""
    assert ChatTemplate(template, now=lambda: NOW).render(CHAT, (), arguments) == expected


def test_the_date_is_the_devices_own() -> None:
    """And asked for with each prompt: an agent runs for months."""
    days = iter([NOW, NOW + timedelta(days=1)])
    template = ChatTemplate("{{ strftime_now('%d') }}", now=lambda: next(days))
    assert [template.render(CHAT), template.render(CHAT)] == ["07", "08"]
    before = datetime.now().date()
    shown = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}").render(CHAT)
    assert str(before) <= shown <= str(datetime.now().date())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("thinking", "takes no argument thinking"),
        ("messages", "messages is not to be set"),
        ("add_generation_prompt", "is not to be set"),
        ("strftime_now", "is not to be set"),
    ],
)
def test_an_argument_that_would_do_nothing_or_harm_is_refused(name: str, says: str) -> None:
    """By its name, also where the template reads it."""
    with pytest.raises(InputError, match=says) as raised:
        ChatTemplate(DATED + "{{ messages }}").render(CHAT, (), {name: False})
    assert raised.value.code == "bad-messages"


def test_a_large_argument_is_paid_for() -> None:
    """A template that copies it over and over ends as one that does so with messages."""
    template = ChatTemplate("{% for i in range(4000) %}{{ a | tojson }}{% endfor %}")
    with pytest.raises(InputError) as raised:
        template.render(CHAT, (), {"a": [["x" * 100] * 1000] * 10})
    assert raised.value.code in ("bad-template", "too-large")


def test_a_template_that_names_tools_after_their_form_is_given_them() -> None:
    """As SmolLM3's is: its functions, without what stands around them."""
    template = ChatTemplate("{% for tool in xml_tools or [] %}{{ tool }}{% endfor %}")
    assert template.render(CHAT, [Tool("f", "does", {})]) == str(
        {"name": "f", "description": "does", "parameters": {"type": "object", "properties": {}}}
    )


def test_what_is_marked_for_training_is_written() -> None:
    """Some models ship the template that they were trained with."""
    template = "{% generation %}{{ messages[0].role }}{% endgeneration %}!"
    assert ChatTemplate(template).render(CHAT) == "system!"


def test_a_template_may_refuse_a_chat() -> None:
    """Its own words reach who asked."""
    with pytest.raises(InputError, match="no system") as raised:
        ChatTemplate("{{ raise_exception('no system message, please') }}").render(CHAT)
    assert raised.value.code == "bad-messages"


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("a\n{% if %}", "line 2"),
        ("a\n\n{{ 1 / 0 }}", "line 3"),
        ("{{ a | pprint }}", "line 1: No filter named"),
        ("\n{{ nothing.at.all }}", "line 2"),
        ("\n\n{% include 'a' %}", "line 3: include is not supported"),
    ],
)
def test_the_error_names_the_line(template: str, line: str) -> None:
    """Of the template, while compiling and while rendering."""
    with pytest.raises(InputError, match=line) as raised:
        ChatTemplate(template).render(CHAT)
    assert raised.value.code == "bad-template"


def test_time_ends_a_rendering_that_has_units_left() -> None:
    """A slow device stops by the clock, also within one large value."""
    now = iter(range(10))
    budget = Budget(10**12, seconds=1.5, clock=lambda: next(now))
    budget.spend(1)
    with pytest.raises(InputError, match=r"over 1\.5 s"):
        budget.spend(1)
    ticks = iter([0, *[2] * 9])
    with pytest.raises(InputError, match=r"over 1\.5 s"):
        Budget(10**12, seconds=1.5, clock=lambda: next(ticks)).weigh([[0] * 1000] * 10**6)


_RENDER = """
import json, resource, sys, time
from contracts.chat.template import ChatTemplate
from contracts.errors import InputError
from contracts.requests import ChatMessage
ChatTemplate("{{ messages }}").render([ChatMessage("user", "a")])
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_CPU, (15, 15))
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
started = time.process_time()
try:
    ChatTemplate(json.loads(sys.stdin.read())).render([ChatMessage("user", "a")])
    code = "none"
except InputError as error:
    code = error.code
seconds = time.process_time() - started
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
print(json.dumps([code, seconds, grown / 1024]))
"""


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_template_ends_soon_with_the_one_error(attack: str) -> None:
    """Neither time nor memory goes; apart, so that a hang or a crash would fail alone."""
    done = subprocess.run(
        [sys.executable, "-c", _RENDER],
        input=json.dumps(ATTACKS[attack]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-500:] or done.returncode
    code, seconds, grown = json.loads(done.stdout)
    assert code in ("bad-template", "too-large")
    assert seconds < SECONDS + 1
    assert grown < 100
