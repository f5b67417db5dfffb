"""Records what transformers renders chat templates to: tests/golden/chat.json.

`python tools/chat.py`. The templates are small ones of our own, in the shapes that published models
use: headers and a date (Llama 3), a default system message (Qwen), brackets and strict roles
(Mistral), markers (ChatML), names with line ends (Zephyr), an empty block for what the model thinks
(Qwen3), a prompt that opens this block (R1), and one that uses what is left. Some have a system
message, or variables of the template.
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

TEMPLATES = {
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "1 Jan 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "[head]system[/head]\\n\\nToday is " + date_string + ".\\n" + system + "[end]" }}
{%- for m in messages %}
    {{- '[head]' + m['role'] + '[/head]\\n\\n' + m['content'] | trim + '[end]' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[head]assistant[/head]\\n\\n' }}
{%- endif %}
""",
    "default-system": """{%- if tools %}
    {{- '[tools]' }}{% for t in tools %}{{ t | tojson }}{% endfor %}
{%- elif messages[0].role == 'system' %}
    {{- '[start]system\\n' + messages[0].content + '[stop]\\n' }}
{%- else %}
    {{- '[start]system\\nBe kind.[stop]\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if m.role == "user" and m.content is string and not m.content.startswith('[') %}
        {%- set ns.last = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if loop.index0 < ns.last %}{% continue %}{% endif %}
    {%- if (m.role == "user") or (m.role == "system" and not loop.first) %}
        {{- '[start]' + m.role + '\\n' + m.content + '[stop]' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[start]assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- 'nothing' }}
    {%- endif %}
{%- endif %}
""",
    "brackets": """{{ bos_token }}{% for m in messages %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate!') }}{% endif %}\
{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}\
{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}""",
    "markers": """{% for m in messages %}{{'<|open|>' + m['role'] + '\n' + m['content'] + '<|shut|>'\
 + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|open|>assistant\n' }}{% endif %}""",
    "names": """{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{% generation %}{{ '<|assistant|>\n'  + m['content'] + eos_token }}{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "thinks": """{%- for m in messages %}
    {%- if m.role == 'assistant' and loop.last %}
        {{- '[start]assistant\\n<think>\\n' + (m.thoughts or '') + '\\n</think>\\n\\n' + m.content }}
        {{- '[stop]\\n' }}
    {%- else %}
        {{- '[start]' + m.role + '\\n' + m.content + '[stop]\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[start]assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "opens": """{% for m in messages %}{% if m['role'] == 'user' %}<User>{{ m['content'] }}\
{% elif m['role'] == 'assistant' %}<Assistant>{{ m['content'] + eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<Assistant><think>
{% endif %}""",
    "odds": """{#- a comment -#}
{%- macro turn(m, mark='*') -%}
{{ mark }}{{ m.role.upper() }}{{ mark }} {{ m.content.strip().split(' ')[-1] }}|{{ m['content'] }}
{%- endmacro -%}
    {%- if tools is not none or documents is not none %}never{% endif %}
{% for m in messages %}
    {%- generation -%}
{{ turn(m) }}
    {%- endgeneration %}
 {{ m | tojson }} {{ m | tojson(indent=2) }}
{{ {'a': [1, 2.5, none, true], 'é<&>': "it's"} | tojson }}
{% endfor %}
{{ unheard_of }}{{ 'x' if unheard_of is defined else 'y' }} {{ "%s-%d" | format("a", 3) }}
{{ ['b', 'a'] | sort | join(',') }} {{ 'a.b'.replace('.', '-') }} {{ 7 // 2 }} {{ 2 ** 3 }}
""",
}

MESSAGES = ["The mother tongue of Danielle Darrieux is", "Où est 東京?", 'a "quoted" <b> & it\'s']

# What some cases have beside the message: a system message, and variables.
SYSTEM = "Answer in one word."
BESIDE = [
    ("headers", SYSTEM, {"date_string": "26 July 2026"}),
    ("default-system", SYSTEM, {"enable_thinking": False}),
    ("default-system", None, {"enable_thinking": True}),
    ("thinks", SYSTEM, {}),
    ("thinks", None, {"enable_thinking": False}),
]

if __name__ == "__main__":
    cases = []
    for name, template in TEMPLATES.items():
        for message in MESSAGES:
            chat = [{"role": "user", "content": message}]
            rendered, _ = render_jinja_template(
                [chat], chat_template=template, add_generation_prompt=True, **TOKENS
            )
            cases.append({"name": name, "message": message, "rendered": rendered[0]})
    for name, system, variables in BESIDE:
        chat = [{"role": "system", "content": system}] if system else []
        rendered, _ = render_jinja_template(
            [chat + [{"role": "user", "content": MESSAGES[0]}]],
            chat_template=TEMPLATES[name],
            add_generation_prompt=True,
            **TOKENS,
            **variables,
        )
        case = {"name": name, "message": MESSAGES[0], "rendered": rendered[0]}
        cases.append({**case, "system": system, "variables": variables})
    golden = {"tokens": TOKENS, "templates": TEMPLATES, "cases": cases}
    path = Path(__file__).parent.parent / "tests/golden/chat.json"
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
